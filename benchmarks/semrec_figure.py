"""What SemRec's branches see, for the docs: input, local map, object map, their sum, ground truth.

    python -m benchmarks.semrec_figure --checkpoint out/run --version STORE/tray/0001-… \
        --out docs/pictures/semrec.png

Cases are chosen by their scores, never by looks: of logical and of structural anomalies the image
with the highest and the one with the lowest score, and the good image with the highest. Each column
has one scale, from the maps of validation normals: pale is what good products reach. Only versions
of rendered scenes are drawn, for pictures in the repository must be free of other people's rights.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.pictures import captioned, framed
from detectors.data.dataset import VersionDataset, as_made
from detectors.data.resize import fitted
from detectors.heatmaps import Scale, over, scale_of
from detectors.metrics.per_type import group_of
from detectors.scoring import enlarged, stacked
from detectors.training.checkpoint import Restored, load
from pipeline.dataset.version import Version, open_version
from pipeline.errors import UserError
from pipeline.records import GOOD

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
            f"{args.version} has licence {version.index.get('licence')!r}; draw rendered scenes"
        )
    picture_HW3 = figure(load(args.checkpoint), version)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), cv2.cvtColor(picture_HW3, cv2.COLOR_RGB2BGR))


def figure(restored: Restored, version: Version) -> np.ndarray:
    """The whole picture, uint8 RGB."""
    normals = VersionDataset.normals(version, "validation")
    seen = maps_of(restored, as_made(normals.__getitems__(range(len(normals))))["image"])
    scales = {name: scale_of(list(maps)) for name, (maps, _) in seen.items()}
    picked = chosen(cases(restored, version))
    strips = [strip(case, scales) for _, case in picked]
    words = [f"{why}: {case.name}, score {case.score:.3f}" for why, case in picked]
    words[0] += "   |   input, local, object, sum, ground truth"
    return captioned(strips, words)


def cases(restored: Restored, version: Version) -> list[Case]:
    """Every test image, scored and explained."""
    images = list(version.test_images())
    found = []
    for start in range(0, len(images), BATCH):
        lot = images[start : start + BATCH]
        seen = maps_of(restored, stacked([pixels for pixels, *_ in lot]))
        for place, (pixels_HW3, masks_KHW, _, record) in enumerate(lot):
            found.append(Case(
                name=record["name"], group=group_of(record["defect"]),
                score=float(seen["sum"][1][place]), image_HW3=pixels_HW3,
                truth_HW=masks_KHW.any(0),
                maps={name: maps_BHW[place] for name, (maps_BHW, _) in seen.items()},
            ))  # fmt: skip
    return found


def chosen(all_cases: Sequence[Case]) -> list[tuple[str, Case]]:
    """Best and worst of each kind, with the reason why it is shown."""
    picked = []
    for words, highest in (("found", True), ("missed", False)):
        for group in sorted({case.group for case in all_cases} - {GOOD}):
            of = sorted((case for case in all_cases if case.group == group), key=lambda c: c.score)
            picked.append((f"{words}, {group}", of[-1 if highest else 0]))
    good = [case for case in all_cases if case.group == GOOD]
    return [*picked, *([("highest good image", max(good, key=lambda c: c.score))] if good else [])]


@torch.inference_mode()
def maps_of(
    restored: Restored, images_B3HW: torch.Tensor
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(B, H, W) maps at the images' size and (B,) scores, by column."""
    height, width = images_B3HW.shape[2:]
    images = fitted(images_B3HW.to(restored.compute.device), restored.detector.settings.size)
    with restored.compute.autocast():
        scores = restored.detector(images)
        parts = restored.detector.explain(images)
    if not set(COLUMNS[:2]) <= set(parts):
        raise UserError("the checkpoint must hold a SemRec with both branches")
    maps = {name: parts.get(name, scores.maps_BHW) for name in COLUMNS}
    image_B = scores.image_B.float().cpu().numpy()
    return {
        name: (enlarged(map_BHW.float(), (height, width)).cpu().numpy(), image_B)
        for name, map_BHW in maps.items()
    }


def strip(case: Case, scales: dict[str, Scale]) -> np.ndarray:
    """input | local | object | sum | ground truth."""
    heat = [over(case.image_HW3, case.maps[name], scales[name]) for name in COLUMNS]
    truth_HW3 = case.truth_HW[..., None].repeat(3, 2).astype(np.uint8) * 255
    return np.hstack([framed(tile) for tile in (case.image_HW3, *heat, truth_HW3)])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"semrec_figure: {error}", file=sys.stderr)
        sys.exit(2)
