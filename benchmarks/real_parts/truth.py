"""Whether an edit made a composed scene anomalous by the scene's own rule.

The truth knows every part, so what an edit did can be replayed on kinds and compartments: parts
that the edited object covers are gone, and what is pasted is the part that the object really was.
Nothing of the generator's own judgement enters, only the record of the edit and its masks.

Shapes: N parts; H, W image.
"""

from collections.abc import Mapping

import numpy as np

from benchmarks.real_parts.scenes import LENGTH_SPREAD, Scene
from pipeline.edits.registry import placed_masks
from pipeline.imaging.masks import MaskCrop
from pipeline.kinds import kind_of
from pipeline.records import Edit, ObjectProposals

# Share of a part that must be gone, or covered, for it to be missing.
GONE = 0.5
# IoU from which an object is that part, and not a fragment of it or a pile.
THE_PART = 0.5


def is_anomaly(
    edit: Edit, scene: Scene, proposals: ObjectProposals, donors: Mapping[str, Scene]
) -> bool:
    """True when the edited scene breaks its rule; `donors` are the other scenes by file name."""
    parts = dict(enumerate(zip(scene.kinds, scene.cells, strict=True)))
    extra: list[tuple[str, int]] = []
    for part in edit.parts:
        row = kind_of(part.kind)
        masks = [proposals.masks_NHW[target] for target in part.targets]
        found = [part_of(scene, mask_HW) for mask_HW in masks]
        if "scale" in part.parameters:
            # Sizes vary a little from scene to scene; beyond that it is no part of its kind.
            scale = float(part.parameters["scale"])
            usual = (1 + LENGTH_SPREAD) / (1 - LENGTH_SPREAD)
            return found[0] is not None and not 1 / usual <= scale <= usual
        if "lab" in part.parameters or "hue" in part.parameters:
            # No kind comes in another colour.
            return found[0] is not None
        if not row.adds:
            for mask_HW in masks:
                for index in covered(scene, mask_HW):
                    parts.pop(index, None)
        kinds = [None if index is None else scene.kinds[index] for index in found]
        if "donor" in part.parameters:
            kinds = [_donated(part, donors)]
        elif "part" in part.parameters:
            own = part_of(scene, proposals.masks_NHW[part.parameters["part"]])
            kinds = [None if own is None else scene.kinds[own]]
        after = placed_masks(part, masks, proposals) or []
        for kind, mask_HW in zip(kinds, after, strict=False):
            # What is pasted hides what lies there.
            for index in covered(scene, mask_HW):
                parts.pop(index, None)
            if kind is not None and mask_HW.any():
                extra.append((kind, scene.cell_at(*MaskCrop.of(mask_HW).centre)))
    return bool(scene.rule.broken_by([*parts.values(), *extra]))


def part_of(scene: Scene, mask_HW: np.ndarray) -> int | None:
    """The part that a mask shows, None for a fragment, a pile or background."""
    shared_N = (scene.masks_NHW & mask_HW).sum((1, 2))
    either_N = (scene.masks_NHW | mask_HW).sum((1, 2))
    best = int((shared_N / np.maximum(either_N, 1)).argmax())
    return best if shared_N[best] >= THE_PART * either_N[best] else None


def covered(scene: Scene, mask_HW: np.ndarray) -> list[int]:
    """The parts of which a mask covers at least GONE."""
    shared_N = (scene.masks_NHW & mask_HW).sum((1, 2))
    return np.flatnonzero(shared_N >= GONE * scene.masks_NHW.sum((1, 2))).tolist()


def _donated(edit: Edit, donors: Mapping[str, Scene]) -> str | None:
    """The kind of a donor's object, by its recorded box."""
    donor = edit.parameters["donor"]
    scene = donors[donor["image"].rsplit("/", 1)[-1]]
    x0, y0, x1, y1 = donor["box_4"]
    box_HW = np.zeros(scene.image_HW3.shape[:2], np.bool_)
    box_HW[y0:y1, x0:x1] = True
    # The donor's mask is not in the record: its box must hold one part and hardly any other.
    inside = covered(scene, box_HW)
    if len(inside) != 1:
        return None
    part_HW = scene.masks_NHW[inside[0]]
    ys, xs = np.nonzero(part_HW)
    own = (xs.max() + 1 - xs.min()) * (ys.max() + 1 - ys.min())
    area = (x1 - x0) * (y1 - y0)
    return scene.kinds[inside[0]] if min(own, area) >= THE_PART * max(own, area) else None
