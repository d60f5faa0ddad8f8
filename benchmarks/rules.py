"""Do drafted rules have the counts of the renderer? `python -m benchmarks.rules`

Good scenes of every product are rendered from seeds that no bundled model was trained on, the
bundled models find the parts, and the drafted counts are compared with what was drawn. A kind of
part agrees when the drafted group that consists of it has exactly the drawn range of counts. A kind
that is missing, or shares its group with another one, does not agree.

Shapes: H, W image.
"""

import argparse
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from pipeline.imaging.decode import load_image
from pipeline.models import build as models
from pipeline.models import device as devices
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.rulebook.draft import Draft
from pipeline.rulebook.parts import Parts, finder
from pipeline.rulebook.second_look import draft_twice
from scenes.render import PRODUCTS, render

# Within the seeds that pretraining holds out for evaluation.
FIRST_SEED = 70_800_000
# Side of a rendered scene, and of an image as a dataset stores it, in pixels.
RENDERED, STORED = 512, 256
# IoU from which on a found part is matched with a drawn one.
SAME = 0.5
# Share of kinds that has to agree for exit code 0.
WANTED = 0.95


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of part: drawn counts and drafted counts (least, most), number of parts found."""

    product: str
    part: str
    drawn: tuple[int, int]
    drafted: tuple[int, int] | None
    found: int
    all: int
    why: str = ""

    @property
    def agrees(self) -> bool:
        return self.drafted == self.drawn


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0 when at least 95 % of the kinds agree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rules", description=__doc__)
    parser.add_argument("--images", type=int, default=40, help="good scenes per product")
    parser.add_argument("--products", nargs="+", default=list(PRODUCTS), choices=PRODUCTS)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    chosen = parser.parse_args(arguments)
    rows = []
    print(f"{chosen.images} good scenes per product, {RENDERED} px brought to {STORED} px\n")
    print("| product | part | drawn | drafted | found | |\n|---|---|---|---|---|---|")
    for product in chosen.products:
        for row in measure(product, chosen.images, chosen.first_seed):
            rows.append(row)
            drafted = "-" if row.drafted is None else _span(row.drafted)
            verdict = "agrees" if row.agrees else row.why or "differs"
            print(
                f"| {row.product} | {row.part} | {_span(row.drawn)} | {drafted} "
                f"| {row.found} of {row.all} | {verdict} |",
                flush=True,
            )
    agree = sum(row.agrees for row in rows)
    share = agree / len(rows)
    print(f"\n{agree} of {len(rows)} kinds of parts agree ({share:.1%}; wanted: {WANTED:.0%})")
    return 0 if share >= WANTED else 1


def measure(product: str, images: int, first_seed: int) -> list[Row]:
    """Draft from rendered normals and compare, kind by kind."""
    devices.one_thread()
    # The bundled models, whatever else is installed on this machine.
    settings = ModelSettings.model_validate(
        {"foreground": {"backend": "bundled"}, "proposals": {"backend": "small"}}
    )
    find = finder(models.load(settings, ProposalSettings(), models.resolve(settings)))
    scenes = [_scene(product, seed) for seed in range(first_seed, first_seed + images)]
    found = [find(image_HW3) for image_HW3, _ in scenes]
    made, found = draft_twice(found, lambda number: scenes[number][0], find, product)
    return compare(product, made, found, [instances for _, instances in scenes])


def compare(
    product: str,
    made: Draft,
    found: list[Parts],
    truth: list[list[tuple[str, np.ndarray]]],
) -> list[Row]:
    """One row per drawn kind of part."""
    # For each drafted group, count the drawn kinds of its members.
    whose: dict[int, Counter[str]] = {}
    seen: Counter[str] = Counter()
    for group, members in enumerate(made.shown):
        whose[group] = Counter()
        for image, number in members:
            name = _drawn(found[image].masks_NHW[number], truth[image])
            whose[group][name] += 1
            seen[name] += 1
    # Drawn counts of every kind, image by image.
    counts = {
        name: [sum(part == name for part, _ in instances) for instances in truth]
        for name in sorted({part for instances in truth for part, _ in instances})
    }
    ruled = {kind: rules for rules in made.book.parts.values() for kind in rules.kinds}
    rows = []
    for name, numbers in counts.items():
        # A group belongs to the kind that most of its members are.
        groups = [g for g, tally in whose.items() if tally and tally.most_common(1)[0][0] == name]
        # Only a kind with exactly one group has drafted counts.
        drafted = ruled[groups[0]].admitted if len(groups) == 1 and groups[0] in ruled else None
        why = ""
        if not groups:
            why = "shares a group with another kind" if seen[name] else "not found"
        elif len(groups) > 1:
            why = f"split into {len(groups)} groups"
        elif groups[0] in made.not_used:
            why = f"not used: {made.not_used[groups[0]]}"
        drawn = (min(numbers), max(numbers))
        # Row of the table: drawn and drafted counts, parts found and drawn.
        rows.append(Row(product, name, drawn, drafted, seen[name], sum(numbers), why))
    return rows


def _scene(product: str, seed: int) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """A good scene as a dataset stores it, and its instances at that size."""
    scene = render(product, seed, size=RENDERED)
    with tempfile.TemporaryDirectory() as folder:
        # Through a file, so that decoding and resizing are those of the pipeline.
        path = Path(folder) / "scene.png"
        Image.fromarray(scene.image_HW3).save(path)
        image_HW3 = load_image(path, (STORED, STORED))
    size = (STORED, STORED)
    masks = [
        # Area averaging and a threshold of one half.
        cv2.resize(i.mask_HW.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
        for i in scene.instances
    ]
    names = [instance.part for instance in scene.instances]
    return image_HW3, list(zip(names, masks, strict=True))


def _drawn(mask_HW: np.ndarray, instances: list[tuple[str, np.ndarray]]) -> str:
    """The name of the drawn part that matches a found one best, or a question mark."""
    best, name = SAME, "?"
    for part, drawn_HW in instances:
        iou = float((mask_HW & drawn_HW).sum() / (mask_HW | drawn_HW).sum())
        if iou > best:
            best, name = iou, part
    return name


def _span(counts: tuple[int, int]) -> str:
    low, high = counts
    return str(low) if low == high else f"{low}-{high}"


if __name__ == "__main__":
    raise SystemExit(main())
