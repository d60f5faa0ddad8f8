"""Maps of SemRec's branches for the docs: input, local map, object map, their sum, ground truth.

    python -m benchmarks.semrec_figure --checkpoint out/run --version STORE/tray/0001-… \
        --out docs/images/semrec.png

Cases are selected by their scores, not by eye: of logical and of structural anomalies the image
with the highest and the one with the lowest score, and the good image with the highest. Each column
has one scale, from the maps of validation normals: pale is the level of good products. Only
versions of rendered scenes are accepted: images in the repository must carry no third-party rights.
Shapes: B batch; K regions of ground truth; H, W image; 3 colour (RGB, uint8).
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.command import command
from benchmarks.pictures import captioned, framed
from detectors.data.dataset import VersionDataset, collate
from detectors.data.resize import resize_images
from detectors.heatmaps import Scale, overlay, scale_of
from detectors.metrics.per_type import group_of
from detectors.scoring import resize_maps, stack_images
from detectors.training.checkpoint import Restored, load
from pipeline.dataset.version import Version, open_version
from pipeline.errors import UserError
from pipeline.records import GOOD

# The two branches by SemRec's own names, and the combined map.
COLUMNS = ("local", "object", "sum")
BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One test image with its maps by column, (H, W) float32, and its truth, (H, W) bool."""

    name: str
    group: str
    score: float
    image_HW3: np.ndarray
    truth_HW: np.ndarray
    maps: dict[str, np.ndarray]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    parser.add_argument("--version", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(arguments)
    version = open_version(args.version)
    if "rendered" not in version.index.get("licence", ""):
        raise UserError(
            f"{args.version} has licence {version.index.get('licence')!r}; use rendered scenes"
        )
    figure_HW3 = figure(load(args.checkpoint), version)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), cv2.cvtColor(figure_HW3, cv2.COLOR_RGB2BGR))


def figure(restored: Restored, version: Version) -> np.ndarray:
    """The whole figure, uint8 RGB."""
    normals = VersionDataset.normals(version, "validation")
    seen = maps_of(restored, collate(normals.__getitems__(range(len(normals))))["image"])
    # One scale per column from validation normals, so that strips are comparable.
    scales = {name: scale_of(list(maps)) for name, (maps, _) in seen.items()}
    picked = chosen(cases(restored, version))
    strips = [strip(case, scales) for _, case in picked]
    captions = [f"{why}: {case.name}, score {case.score:.3f}" for why, case in picked]
    # The first caption also names the columns.
    captions[0] += "   |   input, local, object, sum, ground truth"
    return captioned(strips, captions)


def cases(restored: Restored, version: Version) -> list[Case]:
    """Every test image with its score and its maps."""
    images = list(version.test_images())
    found = []
    for start in range(0, len(images), BATCH):
        # In batches, to limit memory.
        lot = images[start : start + BATCH]
        seen = maps_of(restored, stack_images([pixels for pixels, *_ in lot]))
        for place, (pixels_HW3, masks_KHW, _, record) in enumerate(lot):
            found.append(Case(
                name=record["name"], group=group_of(record["defect"]),
                score=float(seen["sum"][1][place]), image_HW3=pixels_HW3,
                truth_HW=masks_KHW.any(0),
                maps={name: maps_BHW[place] for name, (maps_BHW, _) in seen.items()},
            ))  # fmt: skip
    return found


def chosen(all_cases: Sequence[Case]) -> list[tuple[str, Case]]:
    """Highest and lowest score of each anomaly type, each with the reason for its selection."""
    picked = []
    for reason, highest in (("found", True), ("missed", False)):
        for group in sorted({case.group for case in all_cases} - {GOOD}):
            of = sorted((case for case in all_cases if case.group == group), key=lambda c: c.score)
            picked.append((f"{reason}, {group}", of[-1 if highest else 0]))
    # The good image that comes closest to a false alarm.
    good = [case for case in all_cases if case.group == GOOD]
    return [*picked, *([("highest good image", max(good, key=lambda c: c.score))] if good else [])]


@torch.inference_mode()
def maps_of(
    restored: Restored, images_B3HW: torch.Tensor
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(B, H, W) maps at the images' size and (B,) scores, by column."""
    height, width = images_B3HW.shape[2:]
    images = resize_images(images_B3HW.to(restored.compute.device), restored.detector.settings.size)
    with restored.compute.autocast():
        # Score and maps of the same forward settings.
        scores = restored.detector(images)
        parts = restored.detector.explain(images)
    # Other detectors, and SemRec with one branch, explain nothing or less.
    if not set(COLUMNS[:2]) <= set(parts):
        raise UserError("the checkpoint must hold a SemRec with both branches")
    # "sum" is no branch: it is the detector's own map.
    maps = {name: parts.get(name, scores.maps_BHW) for name in COLUMNS}
    image_B = scores.image_B.float().cpu().numpy()
    return {
        name: (resize_maps(map_BHW.float(), (height, width)).cpu().numpy(), image_B)
        for name, map_BHW in maps.items()
    }


def strip(case: Case, scales: dict[str, Scale]) -> np.ndarray:
    """input | local | object | sum | ground truth."""
    heat = [overlay(case.image_HW3, case.maps[name], scales[name]) for name in COLUMNS]
    # Ground truth in white on black.
    truth_HW3 = case.truth_HW[..., None].repeat(3, 2).astype(np.uint8) * 255
    return np.hstack([framed(tile) for tile in (case.image_HW3, *heat, truth_HW3)])


if __name__ == "__main__":
    command("semrec_figure", main)
