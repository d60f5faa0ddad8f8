"""How fast generation is, against segment-anything's own generator and against its own first run.

python -m benchmarks.generation
"""

import tempfile
from pathlib import Path

import torch
from segment_anything import SamAutomaticMaskGenerator

from benchmarks.timing import Row, median_seconds, print_table
from flows.local import generate
from pipeline import devices, weights
from pipeline.manifest import manifest_for_source, resolve
from pipeline.models import QUALITY, with_quality
from pipeline.proposals import SamProposals
from pipeline.records import ForegroundMask
from pipeline.settings import ProposalSettings
from pipeline.small_sam import small_sam
from scenes.loco import write_loco
from scenes.render import render


def main() -> list[Row]:
    """Print the table and return its rows."""
    devices.one_thread()
    rows = [proposals(), cached_run()]
    print_table("Generation", rows)
    return rows


def proposals() -> Row:
    """Foreground points, filtered at logit size, against the stock 32x32 grid; same weights."""
    scene = render("tray", seed=1, size=256)
    sam = small_sam(weights.require("bundled-sam"))
    settings = with_quality(ProposalSettings(), QUALITY["small"])
    ours = SamProposals(sam, settings, devices.choose("cpu", "fp32"))
    stock = SamAutomaticMaskGenerator(
        sam,
        pred_iou_thresh=settings.min_predicted_iou,
        stability_score_thresh=settings.min_stability,
    )
    foreground = ForegroundMask(scene.product_HW)
    with torch.inference_mode():
        slow = median_seconds(lambda: stock.generate(scene.image_HW3), repeats=1)
    fast = median_seconds(lambda: ours(scene.image_HW3, foreground))
    return Row("proposals of one 256-px image", fast, "SamAutomaticMaskGenerator, 32x32", slow, 5)


def cached_run() -> Row:
    """The same command again, served from the published version."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_loco(
            Path(folder), "bag", train=6, validation=2, test_good=1, per_defect=1, size=256
        )
        manifest = manifest_for_source("mvtec_loco", root, store=str(Path(folder) / "store"))
        settings = resolve(manifest, "bag")
        first = generate(settings, workers=2)
        again = median_seconds(lambda: generate(settings, workers=2), repeats=3)
    return Row("second run, 8 images", again, "first run", first.seconds, 10)


if __name__ == "__main__":
    main()
