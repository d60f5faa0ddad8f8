"""Images of other categories that donate products: few, the same ones every time, never a fault."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.manifest import manifest_for_source, override, read_manifest, resolve
from pipeline.config.schema import CategorySettings
from pipeline.generation.other_products import ALONE, HELD_OUT, PER_CATEGORY, images_of_others
from pipeline.generation.plan import load_plan, plan


@pytest.fixture
def settings(tmp_path: Path) -> CategorySettings:
    for name in ("caps", "nuts"):
        photographs(tmp_path / name, 10, seed=len(name) + ord(name[0]))
    manifest = manifest_for_source("folder", tmp_path / "nuts", store=str(tmp_path / "store"))
    return override(resolve(manifest, "nuts"), other_products=tmp_path / "caps")


def photographs(folder: Path, count: int, seed: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")


def test_the_first_images_by_name_donate_each_to_one_split(settings: CategorySettings) -> None:
    images, notes = images_of_others(settings, set())
    assert [image.name for image in images] == [f"caps/{n:03}.png" for n in range(PER_CATEGORY)]
    held = [image.split == "validation" for image in images]
    assert sum(held) == PER_CATEGORY // HELD_OUT
    assert not notes


def test_the_categorys_own_images_are_no_other_product(settings: CategorySettings) -> None:
    images, _ = images_of_others(settings, set())
    fewer, _ = images_of_others(settings, {images[0].digest})
    assert fewer == images[1:]


def test_a_plan_holds_donors_of_the_same_split_and_survives_its_file(
    settings: CategorySettings,
) -> None:
    made = plan(settings)
    donors = {other.name: other.split for other in made.others}
    for image in made.images:
        given = [name for name in image.donors if name in donors]
        assert len(given) == (4 if image.split == "train" else 2)
        assert {donors[name] for name in given} == {image.split}
    assert load_plan(made.save()).others == made.others


def test_another_folder_that_is_gone_costs_a_line(
    settings: CategorySettings, tmp_path: Path
) -> None:
    alone = plan(settings.model_copy(update={"other_products": ()}))
    assert ALONE in alone.notes
    gone = plan(override(settings, other_products=tmp_path / "gone"))
    assert len(gone.images) == 10
    assert [note for note in gone.notes if note.startswith("gone donates no product")]
    assert gone.digest == alone.digest


def test_other_categories_donate_products_under_the_same_licence(tmp_path: Path) -> None:
    for name in ("photos/caps", "photos/nuts", "theirs"):
        (tmp_path / name).mkdir(parents=True)
    path = tmp_path / "m.yaml"
    path.write_text(
        "version: 1\n"
        "sources:\n"
        "  ours: {kind: ok_ng, path: photos, licence: proprietary}\n"
        "categories:\n"
        "  caps: {source: ours, path: caps}\n"
        "  nuts: {source: ours, path: nuts}\n"
        "  theirs: {source: folder, path: theirs}\n"
        "  alone: {source: ours, path: nuts, other_products: []}\n"
        "  named: {source: ours, path: nuts, other_products: [theirs]}\n"
    )
    manifest = read_manifest(path)
    donors = {
        name: [one.name for one in resolve(manifest, name).other_products]
        for name in manifest.categories
    }
    assert donors["caps"] == ["nuts", "alone", "named"]
    assert donors["theirs"] == donors["alone"] == []
    assert donors["named"] == ["theirs"]
    assert resolve(manifest, "named").other_products[0].root == tmp_path / "theirs"
