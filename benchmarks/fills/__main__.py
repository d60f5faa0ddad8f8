"""Which inpainter fills a hole best? On photographs, at objects and in plain background.

    OMP_NUM_THREADS=1 python -m benchmarks.fills --photographs FOLDER [--sheet OUT]

FOLDER holds categories in the layout of MVTec AD (`bottle/train/good/*.png`, ...). For each
inpainter: the gate's patch distance of the filled region (the image itself is left out of the bank;
lower is nearer to normal), and on holes with a known truth PSNR and the distance between the
features of fill and truth; AUROC of a probe on high-frequency traces after sensor noise was added
(0.5 = no trace); seconds per hole on one core. `chosen` is the candidate that the gate's distance
takes. Then the share of all removals that pass the gate, and why the others do not. `--sheet`
writes 24 removals per category, drawn by position, before and after.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.fills.holes import Hole, Scene, at_objects, drawn_shapes, in_background, scenes
from benchmarks.fills.measure import Fills, table
from benchmarks.fills.removals import contact_sheet, removals, summary
from benchmarks.fills.repeating import repeated_fill, repeating
from pipeline.gate.calibration import NormalModel, learn
from pipeline.generation.cache_keys import CALIBRATION_IMAGES, TEACHER
from pipeline.models import build
from pipeline.models import device as devices
from pipeline.models.inpaint.base import Inpainter
from pipeline.models.settings import InpaintBackend, ModelSettings
from pipeline.models.weights import store as weights

INPAINTERS = ("patchmatch", "small_lama", "telea", "ns")
# Photographs, then scenes composed of their parts (`benchmarks.real_parts`).
CATEGORIES = (
    "bottle", "hazelnut_reduced", "transistor_reduced",
    "free-cloth", "free-paper", "touching-cloth", "tray",
)  # fmt: skip
# Objects per image whose place is filled.
OBJECTS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True, help="folder of the categories")
    parser.add_argument("--categories", nargs="+", default=CATEGORIES)
    parser.add_argument("--size", type=int, default=256, help="px per side")
    parser.add_argument("--images", type=int, default=40, help="photographs per category")
    parser.add_argument("--sheet", type=Path, help="folder for the contact sheets")
    options = parser.parse_args()
    models = build.load()
    inpainters = {name: inpainter(name) for name in (*INPAINTERS, "candidates")}
    chooser = inpainters.pop("candidates")
    for category in options.categories:
        print(f"\n## {category}, {options.size} px\n", flush=True)
        found = list(scenes(options.photographs, category, models, options.size, options.images))
        normal_model = normal_model_of(found)
        # Where the background repeats itself it is a candidate, too.
        known = {"repeated": repeated_fill} if repeating(found) else {}
        report(found, normal_model, {**known, **inpainters})
        made = removals(found, chooser, normal_model)
        print(summary(made), flush=True)
        if options.sheet and made:
            contact_sheet(made, options.sheet / f"{category}_{options.size}.png")


def inpainter(name: str) -> Inpainter:
    """One inpainter with its bundled weights, on the CPU."""
    devices.one_thread()
    settings = ModelSettings(inpaint=InpaintBackend(backend=name), device="cpu")
    files = build.resolve(settings)
    compute = devices.choose("cpu", settings.precision)
    return build.build_inpainter(*files.inpaint, settings.inpaint, compute)


def normal_model_of(found: Sequence[Scene]) -> NormalModel:
    """The gate's calibration on these photographs."""
    normals = {
        scene.digest: lambda scene=scene: (scene.image_HW3, scene.proposals)
        for scene in found[:CALIBRATION_IMAGES]
    }
    return learn(normals, weights.require(TEACHER, None, True))


def report(
    found: Sequence[Scene], normal_model: NormalModel, inpainters: dict[str, Inpainter]
) -> None:
    """Both tables of one category; a kind of hole that it does not have is left out."""
    shapes = drawn_shapes(found[0].image_HW3.shape[0])
    kinds: dict[str, list[Hole]] = {
        "holes at objects": [hole for scene in found for hole in at_objects(scene, OBJECTS)],
        "holes cut into the background": [
            hole for i, scene in enumerate(found) for hole in in_background(scene, shapes, i)
        ],
    }
    assert normal_model.patches is not None
    for title, holes in kinds.items():
        # The probe's folds need a few holes.
        if len(holes) < 10:
            print(f"{title}: only {len(holes)} found, left out\n")
            continue
        print(table(title, Fills(holes, inpainters, normal_model.patches)), flush=True)


if __name__ == "__main__":
    main()
