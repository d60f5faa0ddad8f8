"""How good the bundled models are: the measures of their cards, most of them on fewer pictures.

python -m benchmarks.quality

Aims that are missed are shown and change no exit code: they are aims, the README claims less.
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
SCENES = 40
"""Rendered scenes for foreground and proposals; the cards used 200 and 100."""


def main() -> list[Measure]:
    """Print the table and return its rows."""
    devices.one_thread()
    print("\n## Quality of the bundled models\n")
    measures = [
        *foreground_table.evaluate(weights.require("bundled-u2netp"), SHARED, SCENES),
        *proposals_table.evaluate(weights.require("bundled-sam"), SCENES),
        *inpainting(),
        *teacher(),
    ]
    print_measures(measures)
    return measures


def inpainting() -> list[Measure]:
    """The small LaMa against the better of OpenCV's two, for each sort of hole."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints a table of its own
        table = inpainting_evaluation.evaluate(weights.require("bundled-lama"))
    measures = []
    for sort in ("removal", "cut", "real"):
        if f"{sort}, Telea" not in table:
            continue
        ours, telea, ns = (table[f"{sort}, {n}"] for n in ("small LaMa", "Telea", "Navier-Stokes"))
        ahead = ours["psnr"] - max(telea["psnr"], ns["psnr"])
        apart = ours["features"] / min(telea["features"], ns["features"])
        found = ours["residue"] - telea["residue"]
        measures += [
            Measure("small LaMa", f"{sort}: PSNR above the better of Telea and NS, dB", ahead, 0),
            Measure("small LaMa", f"{sort}: feature distance against theirs", apart, 1, True),
            Measure("small LaMa", f"{sort}: residue AUROC minus Telea's", found, 0, True),
        ]
    return measures


def teacher() -> list[Measure]:
    """The small teacher's patch score against the ResNet-18's; needs the real pictures."""
    if not (SHARED / "data").is_dir():
        return []
    asked = Namespace(
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
        for row in patch_score.rows(asked)
    ]


if __name__ == "__main__":
    main()
