"""Plan an edit: choose an object and how it becomes wrong (or, for controls, stays right).

A plan names proposals, offsets and numbers but no pixels, so it can be stored as JSON, replayed and
counted. Pixels change only in `apply.py`. The conditions of each kind are in docs/edits.md.
"""

import numpy as np

from pipeline.edits.context import ImageContext
from pipeline.edits.presets import PRESETS, kinds_of
from pipeline.edits.registry import edit_kind
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import disjoint, enclosing_box
from pipeline.kinds import kind_of
from pipeline.records import Edit, ObjectProposals
from pipeline.settings import pixels_at

# Second edits that are tried for one first edit of a composite kind.
PAIR_ATTEMPTS = 8


def plan(
    context: ImageContext,
    rng: np.random.Generator,
    settings: EditSettings | None = None,
    kind: str | None = None,
) -> Edit | None:
    """A random edit of the given kind (by default any kind of the settings), or None if none fits.

    Without a kind all are tried in random order. RecordError for an unknown kind.
    """
    # Raises for an unknown kind even where there is no object to edit.
    if kind is not None:
        kind_of(kind)
    if not len(context):
        return None
    settings = settings or EditSettings()
    # A kind that is listed seven times comes first seven times as often; then each is tried once.
    turns = kinds_of(settings, context.fill is not None)
    kinds = [kind] if kind else dict.fromkeys(rng.permutation(turns).tolist())
    for chosen in kinds:
        edit = _planned(context, rng, settings, str(chosen))
        if edit is not None:
            return edit
    return None


def _planned(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings, kind: str
) -> Edit | None:
    if kind_of(kind).composite:
        return _combined(context, rng, settings, kind)
    return _single(context, rng, settings, kind)


def _single(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings, kind: str
) -> Edit | None:
    """A planned edit of a single kind, with the parameters that all kinds share."""
    found = edit_kind(kind).plan(context, rng, settings)
    if found is None:
        return None
    targets, parameters, boxes = found
    dilation = round(pixels_at(settings.dilation, context.size_HW))
    feather = round(pixels_at(settings.feather, context.size_HW))
    # Matting may find the outline a few pixels beyond the mask, see `matting.alpha_matte`.
    margin = max(dilation, feather, 1) + dilation // 2 + 1 + context.light_margin(targets)
    parameters |= {
        "dilation": dilation,
        "feather": feather,
        "match_noise": settings.match_noise,
        "foreground_share": _share_of_foreground(context.proposals, targets),
        "region": list(enclosing_box(boxes, margin, context.size_HW)),
    }
    # The gate exempts edits of the product itself from its limits on size.
    if any(context.is_product(target) for target in targets):
        parameters["whole_product"] = True
    return Edit(kind, targets, parameters, seed=int(rng.integers(2**62)))


def _combined(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings, kind: str
) -> Edit | None:
    """Two edits of different kinds whose regions, as boxes, share no pixel."""
    kinds = [name for name in kinds_of(settings) if not kind_of(name).composite]
    # Two different kinds are needed; if the settings name fewer, all of the full preset serve.
    if len(set(kinds)) < 2:
        kinds = list(PRESETS["full"])
    first = _single(context, rng, settings, str(rng.choice(kinds)))
    if first is None:
        return None
    rest = [name for name in kinds if name != first.kind]
    # Boxes instead of masks: shadows and soft edges must not meet either.
    for _ in range(PAIR_ATTEMPTS):
        second = _single(context, rng, settings, str(rng.choice(rest)))
        if second is None or not disjoint(first.parameters["region"], second.parameters["region"]):
            continue
        pair = (first, second)
        regions = [edit.parameters["region"] for edit in pair]
        targets = first.targets + second.targets
        parameters = {
            "edits": [edit.to_json() for edit in pair],
            "foreground_share": _share_of_foreground(context.proposals, targets),
            "region": list(enclosing_box(regions, 0, context.size_HW)),
        }
        return Edit(kind, targets, parameters, seed=int(rng.integers(2**62)))
    return None


def _share_of_foreground(proposals: ObjectProposals, targets: tuple[int, ...]) -> float:
    """Share of the foreground that the targets cover; the gate limits it."""
    touched_HW = proposals.masks_NHW[list(targets)].any(0) & proposals.foreground_HW
    whole = int(np.count_nonzero(proposals.foreground_HW))
    return round(int(np.count_nonzero(touched_HW)) / max(1, whole), 6)
