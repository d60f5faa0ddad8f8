"""Plan an edit: which object becomes wrong in which way, or is only inpainted again.

A plan names proposals, offsets and numbers, no pixels, so it can be stored as JSON, replayed and
counted. Pixels change only in `apply.py`. What each kind does, and when not: docs/edits.md.
"""

import numpy as np

from pipeline.edits.context import ImageContext
from pipeline.edits.presets import PRESETS, kinds_of
from pipeline.edits.registry import edit_kind
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import apart, hull
from pipeline.kinds import kind_of
from pipeline.records import Edit, ObjectProposals
from pipeline.settings import pixels_at

# Second edits that are tried beside a first one, for a composite kind.
PAIRS = 8


def plan(
    context: ImageContext,
    rng: np.random.Generator,
    settings: EditSettings | None = None,
    kind: str | None = None,
) -> Edit | None:
    """A random edit of the given kind (by default any of the settings'), or None when none fits.

    Without a kind they are tried in random order. RecordError for an unknown kind.
    """
    if kind is not None:
        kind_of(kind)
    if not len(context):
        return None
    settings = settings or EditSettings()
    # A kind that is named seven times comes first seven times as often.
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
    found = edit_kind(kind).plan(context, rng, settings)
    if found is None:
        return None
    targets, parameters, boxes = found
    dilation = round(pixels_at(settings.dilation, context.size_HW))
    feather = round(pixels_at(settings.feather, context.size_HW))
    # An outline may be found a few pixels beyond the mask, see `matting.belonging`.
    margin = max(dilation, feather, 1) + dilation // 2 + 1
    parameters |= {
        "dilation": dilation,
        "feather": feather,
        "match_noise": settings.match_noise,
        "foreground_share": _share_of_foreground(context.proposals, targets),
        "region": list(hull(boxes, margin, context.size_HW)),
    }
    return Edit(kind, targets, parameters, seed=int(rng.integers(2**62)))


def _combined(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings, kind: str
) -> Edit | None:
    """Two edits of different kinds whose regions, as boxes, share no pixel."""
    kinds = [name for name in kinds_of(settings) if not kind_of(name).composite]
    if len(set(kinds)) < 2:
        kinds = list(PRESETS["full"])
    first = _single(context, rng, settings, str(rng.choice(kinds)))
    if first is None:
        return None
    rest = [name for name in kinds if name != first.kind]
    for _ in range(PAIRS):
        second = _single(context, rng, settings, str(rng.choice(rest)))
        if second is None or not apart(first.parameters["region"], second.parameters["region"]):
            continue
        pair = (first, second)
        regions = [edit.parameters["region"] for edit in pair]
        targets = first.targets + second.targets
        parameters = {
            "edits": [edit.to_json() for edit in pair],
            "foreground_share": _share_of_foreground(context.proposals, targets),
            "region": list(hull(regions, 0, context.size_HW)),
        }
        return Edit(kind, targets, parameters, seed=int(rng.integers(2**62)))
    return None


def _share_of_foreground(proposals: ObjectProposals, targets: tuple[int, ...]) -> float:
    touched_HW = proposals.masks_NHW[list(targets)].any(0) & proposals.foreground_HW
    whole = int(np.count_nonzero(proposals.foreground_HW))
    return round(int(np.count_nonzero(touched_HW)) / max(1, whole), 6)
