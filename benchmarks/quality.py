"""Quality of the bundled models: the measures of their cards, most of them on fewer images.

python -m benchmarks.quality

Missed aims are shown but do not change the exit code: the README claims less than the aims.
"""

import contextlib
import io
from argparse import Namespace
from pathlib import Path

from pipeline.models import device as devices
from pipeline.models.weights import store as weights
from pretraining import patch_score
from pretraining.foreground import table as foreground_table
from pretraining.inpainting import evaluation as inpainting_evaluation
from pretraining.proposals import table as proposals_table
from pretraining.quality import Measure, print_measures

SHARED = Path("../shared")
# Rendered scenes for foreground and proposals; the cards used 200 and 100.
SCENES = 40


def main() -> list[Measure]:
    """Print the table and return its rows."""
    devices.one_thread()
    print("\n## Quality of the bundled models\n")
    measures = [
        # Ordered by the stages of the pipeline.
        *foreground_table.evaluate(weights.require("bundled-u2netp"), SHARED, SCENES),
        *proposals_table.evaluate(weights.require("bundled-sam"), SCENES),
        *inpainting(),
        *teacher(),
    ]
    print_measures(measures)
    return measures


def inpainting() -> list[Measure]:
    """The small LaMa against the better of OpenCV's two inpainters, for each sort of hole."""
    with contextlib.redirect_stdout(io.StringIO()):
        # `evaluate` prints a table of its own, which would appear in the middle of this one.
        table = inpainting_evaluation.evaluate(weights.require("bundled-lama"))
    measures = []
    for sort in ("removal", "cut", "real"):
        # *real* is missing without the MVTec images beside the checkout.
        if f"{sort}, Telea" not in table:
            continue
        ours, telea, ns = (table[f"{sort}, {n}"] for n in ("small LaMa", "Telea", "Navier-Stokes"))
        # Differences and ratios, so that the aims are 0 and 1.
        ahead = ours["psnr"] - max(telea["psnr"], ns["psnr"])
        apart = ours["features"] / min(telea["features"], ns["features"])
        trace = ours["trace"] - telea["trace"]
        measures += [
            Measure("small LaMa", f"{sort}: PSNR above the better of Telea and NS, dB", ahead, 0),
            Measure("small LaMa", f"{sort}: feature distance against theirs", apart, 1, True),
            Measure("small LaMa", f"{sort}: trace AUROC minus Telea's", trace, 0, True),
        ]
    return measures


def teacher() -> list[Measure]:
    """The small teacher's patch score relative to the ResNet-18's; needs the real images."""
    if not (SHARED / "data").is_dir():
        return []
    options = Namespace(
        shared=SHARED, small=weights.require("bundled-teacher"), size=256, bank=10_000, seed=0,
        category=["bottle", "hazelnut_reduced"],
    )  # fmt: skip
    return [
        Measure(
            "small teacher",
            f"{row['category']}: image AUROC of a patch score against the ResNet-18's",
            float(str(row["ratio"])),
            0.85,
        )
        for row in patch_score.rows(options)
    ]


if __name__ == "__main__":
    main()
