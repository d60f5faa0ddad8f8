"""Proposals on composed photographs: recall of parts, proposals per part, seconds.

python -m benchmarks.real_parts --photographs SHARED/data/mvtec_ad
python -m benchmarks.real_parts --photographs ... --write FOLDER --arrangement tray --count 20

Processor seconds of one thread, default settings. Beside it segment-anything's own generator with
the same weights, on fewer scenes, because it takes minutes.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.command import command
from benchmarks.generation.proposals import generated
from benchmarks.real_parts.cutouts import cutouts
from benchmarks.real_parts.folder import write_folder
from benchmarks.real_parts.scenes import ARRANGEMENTS, Scene, compose

MATCH = 0.75
# Scenes that nothing was tuned on; tuning used 1000-1031.
FIRST_SEED = 50_000
GENERATOR_SCENES = 2
HERE = Path(__file__).resolve().parents[3] / "shared" / "data" / "mvtec_ad"


def found_N(scene: Scene, masks_NHW: Any) -> np.ndarray:
    """Which parts of a scene have a mask of IoU MATCH or more; bool (N,)."""
    if not len(masks_NHW):
        return np.zeros(len(scene.kinds), np.bool_)
    parts_NK = scene.masks_NHW.reshape(len(scene.kinds), -1).astype(np.float32)
    masks_MK = np.asarray(masks_NHW).reshape(len(masks_NHW), -1).astype(np.float32)
    shared_NM = parts_NK @ masks_MK.T
    union_NM = parts_NK.sum(1)[:, None] + masks_MK.sum(1)[None] - shared_NM
    return (shared_NM >= MATCH * union_NM).any(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=Path, default=HERE)
    parser.add_argument("--count", type=int, default=100, help="scenes of each arrangement")
    parser.add_argument("--write", type=Path, help="write a folder of scenes instead")
    parser.add_argument("--arrangement", choices=ARRANGEMENTS, default="free")
    args = parser.parse_args()
    if args.write:
        write_folder(args.write, args.arrangement, args.count, args.photographs)
        return
    # Missing photographs end it here, not after the models are loaded.
    cutouts(args.photographs)
    from pipeline.models import build, device

    device.one_thread()
    cv2.setNumThreads(1)
    models = build.load()
    sam = build.build_sam(*models.files.proposals)
    print(f"foreground {models.files.foreground[0]}, proposals {models.files.proposals[0]}, "
          f"{models.compute}, seeds from {FIRST_SEED}\n")  # fmt: skip
    print("| scenes | path | recall of parts | by whole parts | proposals per part | "
          "foreground, s | proposals, s |\n|" + "---|" * 7)  # fmt: skip
    for arrangement in ARRANGEMENTS:
        rows: dict[str, list[tuple[float, ...]]] = {"ours": [], "SamAutomaticMaskGenerator": []}
        for number in range(args.count):
            scene = compose(arrangement, FIRST_SEED + number, args.photographs)
            started = time.process_time()
            foreground = models.foreground(scene.image_HW3)
            middle = time.process_time()
            proposed = models.proposals(scene.image_HW3, foreground)
            ended = time.process_time()
            every, wholes = (found_N(scene, masks) for masks in (
                proposed.masks_NHW, proposed.masks_NHW[proposed.whole_N]))  # fmt: skip
            rows["ours"].append((len(every), every.sum(), wholes.sum(), len(proposed),
                                 middle - started, ended - middle))  # fmt: skip
            if number < GENERATOR_SCENES:
                started = time.process_time()
                masks = generated(sam, models.proposals.settings, scene.image_HW3)
                seconds = time.process_time() - started
                every = found_N(scene, masks)
                rows["SamAutomaticMaskGenerator"].append(
                    (len(every), every.sum(), np.nan, len(masks), np.nan, seconds))  # fmt: skip
        for path, measured in rows.items():
            parts, every, wholes, proposals, before, seconds = np.sum(measured, 0)
            scenes = len(measured)
            print(f"| {arrangement}, {scenes} | {path} | {every / parts:.3f} | "
                  f"{wholes / parts:.3f} | {proposals / parts:.2f} | {before / scenes:.3f} | "
                  f"{seconds / scenes:.3f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    command("real_parts", main)
