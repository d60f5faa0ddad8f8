"""Write a set of composed scenes as a folder in MVTec LOCO's layout, and cut subsets of it.

    train/good  validation/good (empty)  test/{good,logical_anomalies,structural_anomalies}
    ground_truth/…  defects_config.json  contents.json (what each image holds, which photographs)

The validation folder is empty, so generating holds out a tenth of the normals, as for a user's own
folder. The photographs are CC BY-NC-SA 4.0: such folders stay outside of the repository.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.real_detectors.compose import TRAY_SCALE, Composed, compose
from benchmarks.real_detectors.contents import (
    ARRANGEMENTS,
    LOGICAL,
    STRUCTURAL,
    Contents,
    defective,
    good,
)
from benchmarks.real_detectors.pools import Pools, pools
from benchmarks.real_parts.backgrounds import BACKGROUNDS
from benchmarks.real_parts.scenes import LENGTHS
from pipeline.errors import UserError
from pipeline.imaging.decode import is_image_name
from pipeline.imaging.walk import natural_key

# Grey value of each defect in the masks; the order is part of the format.
VALUES = {
    name: value
    for value, name in enumerate(("missing", "extra", "other_type", "exchanged", STRUCTURAL), 1)
}
# Streams of random numbers: the same test images whatever number of normals is made.
TRAIN, TEST_GOOD, TEST_LOGICAL, TEST_STRUCTURAL = range(4)


def write_set(
    out: Path,
    arrangement: str,
    photographs: Path,
    *,
    normals: int = 150,
    good_test: int = 60,
    logical: int = 80,
    structural: int = 40,
    seed: int = 0,
    size: int = 256,
    background: str = "cloth",
) -> Pools:
    """Compose and write one set; the defects of `logical` take turns.

    UserError when `out` exists, or for an unknown arrangement or background.
    """
    if arrangement not in ARRANGEMENTS or background not in BACKGROUNDS:
        raise UserError(
            f"expected one of {ARRANGEMENTS} on one of {BACKGROUNDS}, got {arrangement!r} on "
            f"{background!r}; name a known one"
        )
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder, or delete it")
    used = pools(photographs)
    number_of = ARRANGEMENTS.index(arrangement)
    facts: dict[str, object] = {}

    def write(folder: str, stream: int, number: int, contents: Contents) -> None:
        whole = used.train if stream == TRAIN else used.test
        scene = compose(arrangement, contents, whole, used.broken, photographs,
                        (seed, number_of, stream, number), size, background)  # fmt: skip
        _save(out, folder, number, scene, contents.defect)
        facts[f"{folder}/{number:03}.png"] = asdict(contents)

    for number in range(normals):
        write("train/good", TRAIN, number, good(arrangement))
    for number in range(good_test):
        write("test/good", TEST_GOOD, number, good(arrangement))
    kinds = LOGICAL[arrangement]
    for number in range(logical):
        rng = np.random.default_rng([seed, number_of, TEST_LOGICAL, number, 9])
        # The number within the defect's own images lets the kinds of parts take turns.
        wrong = defective(arrangement, kinds[number % len(kinds)], number // len(kinds), rng)
        write("test/logical_anomalies", TEST_LOGICAL, number, wrong)
    for number in range(structural):
        rng = np.random.default_rng([seed, number_of, TEST_STRUCTURAL, number, 9])
        wrong = defective(arrangement, STRUCTURAL, number, rng)
        write("test/structural_anomalies", TEST_STRUCTURAL, number, wrong)
    (out / "validation" / "good").mkdir(parents=True)
    scale = TRAY_SCALE if arrangement == "tray" else 1.0
    # The smallest part: whoever marks that much has found the place.
    part = 0.5 * (scale * min(LENGTHS.values()) * size) ** 2
    _write_json(out / "defects_config.json", _config(round(part)))
    summary = {"arrangement": arrangement, "seed": seed, "photographs": used.counts()}
    _write_json(out / "contents.json", summary | {"images": facts})
    return used


def write_subset(source: Path, out: Path, normals: int) -> int:
    """Copy a folder of an MVTec layout with only its first training normals by name.

    Returns their number. UserError when there are fewer, or when `out` exists.
    """
    images = sorted(
        (path for path in (source / "train" / "good").glob("*") if is_image_name(path)),
        key=lambda path: natural_key(path.name),
    )
    if not 0 < normals <= len(images):
        raise UserError(
            f"expected 1 to {len(images)} normals ({source} has no more), got {normals}"
        )
    if out.exists():
        raise UserError(f"{out} exists already; name a new folder, or delete it")
    kept = {path.name for path in images[:normals]}
    shutil.copytree(source, out, ignore=_others(source / "train" / "good", kept))
    return normals


def _others(folder: Path, kept: set[str]):  # type: ignore[no-untyped-def]
    """For `copytree`: the files of one folder that are not kept."""

    def ignored(place: str, names: Sequence[str]) -> set[str]:
        return set(names) - kept if Path(place) == folder else set()

    return ignored


def _save(out: Path, folder: str, number: int, scene: Composed, defect: str) -> None:
    path = out / folder / f"{number:03}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image_HW3).save(path)
    for index, region_HW in enumerate(scene.truth):
        mask = out / "ground_truth" / Path(folder).name / path.stem / f"{index:03}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(region_HW.astype(np.uint8) * np.uint8(VALUES[defect])).save(mask)


def _config(part_area: int) -> list[dict[str, object]]:
    """MVTec LOCO's table of defects; undecidable places are saturated by the area of one part."""
    relative = ("exchanged", STRUCTURAL)
    return [
        {
            "defect_name": name,
            "pixel_value": value,
            "saturation_threshold": 1.0 if name in relative else part_area,
            "relative_saturation": name in relative,
        }
        for name, value in VALUES.items()
    ]


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
