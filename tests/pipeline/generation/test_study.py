"""One pass of the models: what generation has found, rule books read, and the other way round."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.config.schema import CategorySettings
from pipeline.generation import plan as planning
from pipeline.generation.analysis import analyse_batch
from pipeline.generation.gc import sweep
from pipeline.generation.pack import pack
from pipeline.generation.rulebook_check import good_images
from pipeline.generation.sampler import generate_batch
from pipeline.generation.study import StudiedFinder, finder_for, finder_of_version
from pipeline.imaging.decode import load_image
from pipeline.models import build as models
from pipeline.models.foreground import U2NetForeground
from pipeline.models.proposals import SamProposals
from pipeline.rulebook.descriptors import Describer
from pipeline.rulebook.parts import Parts, finder
from scenes.render import render

IMAGES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rendered trays as a plain folder of images."""
    root = tmp_path_factory.mktemp("source") / "tray"
    root.mkdir()
    for seed in range(IMAGES):
        image_HW3 = render("tray", seed, size=192).image_HW3
        cv2.imwrite(str(root / f"{seed}.png"), image_HW3[..., ::-1])
    return root


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each network was asked; the real ones answer."""
    asked: Counter[str] = Counter()

    def counted(owner: type, name: str, what: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            asked[what] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    counted(U2NetForeground, "saliency", "foreground")
    counted(SamProposals, "_decode", "SAM")
    counted(Describer, "__call__", "descriptions")
    return asked


def settings_of(folder: Path, store: Path) -> CategorySettings:
    manifest = manifest_for_source(
        "folder", folder, store=str(store), image_size=128,
        models={"inpaint": {"backend": "telea"}}, edits={"per_image": 1, "controls_per_image": 0},
    )  # fmt: skip
    return resolve(manifest, "tray")


def found_for(settings: CategorySettings, splits: tuple[str, ...]) -> dict[str, Parts]:
    find = finder_for(settings)
    return {name: find(image_HW3) for name, image_HW3 in good_images(settings, find, splits)}


def alike(one: Parts, other: Parts) -> bool:
    return np.array_equal(one.masks_NHW, other.masks_NHW) and all(
        (a.centre, a.size, a.angle, a.lab) == (b.centre, b.size, b.angle, b.lab)
        and np.array_equal(a.vector_C, b.vector_C) and np.array_equal(a.face_S, b.face_S)
        for a, b in zip(one.descriptors, other.descriptors, strict=True)
    )  # fmt: skip


def test_a_rule_book_reads_what_a_run_has_found(
    folder: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    settings = settings_of(folder, tmp_path / "store")
    plan = planning.plan(settings)
    assert not any(outcome.error for outcome in analyse_batch(plan, plan.images))
    assert calls["foreground"] >= IMAGES
    assert calls["SAM"] == IMAGES
    calls.clear()
    found = found_for(settings, ("train",))
    assert calls == {"descriptions": len(found)}
    # A second time nothing is asked at all, and the parts are those that the models find.
    calls.clear()
    again = found_for(settings, ("train",))
    assert not calls
    name = sorted(found)[0]
    fresh = finder(models.load(settings.models, settings.proposals))
    image_HW3 = load_image(folder / name, settings.image_size)
    assert len(found[name]) > 5
    assert alike(found[name], again[name])
    assert alike(found[name], fresh(image_HW3))


def test_a_run_reads_what_a_rule_book_has_found(
    folder: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    settings = settings_of(folder, tmp_path / "store")
    assert len(found_for(settings, ("train", "validation"))) == IMAGES
    calls.clear()
    plan = planning.plan(settings)
    assert all(outcome.cached for outcome in analyse_batch(plan, plan.images))
    assert not calls


def test_what_was_looked_for_in_a_box_is_looked_for_once(
    folder: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    settings = settings_of(folder, tmp_path / "store")
    boxes_P4 = np.array([[20, 20, 60, 60]], np.float32)
    masks = []
    for _ in range(2):
        find = finder_for(settings)
        _, image_HW3 = next(good_images(settings, find, ("train",)))
        masks.append(find.within(image_HW3, boxes_P4))
    assert calls["SAM"] == 1
    assert np.array_equal(masks[0], masks[1])


def test_the_rules_of_a_version_need_no_model(folder: Path, tmp_path: Path) -> None:
    plan = planning.plan(settings_of(folder, tmp_path / "store"), limit=2)
    generate_batch(plan, plan.images)
    version = pack(plan, [])
    find = finder_of_version(version, lambda: pytest.fail("the models were loaded"))
    images = [find.of_file(image_HW3, record["digest"]) for image_HW3, record in version.images()]
    assert all(len(find(image_HW3)) > 5 for image_HW3 in images)
    # These entries are needed as long as the version is there.
    assert sweep(tmp_path / "store", dry_run=True).orphans == ()
    # What no run has seen needs them.
    with pytest.raises(pytest.fail.Exception):
        find(255 - images[0])


def test_a_version_that_nobody_would_make_again_needs_its_models(
    folder: Path, tmp_path: Path
) -> None:
    plan = planning.plan(settings_of(folder, tmp_path / "store"), limit=2)
    generate_batch(plan, plan.images)
    version, image = pack(plan, []), plan.images[0]
    image_HW3 = load_image(Path(image.path), plan.settings.image_size)
    saved = tmp_path / "store" / ".cache" / "plans" / f"{plan.digest}.json"
    # Of another release or machine: what its models find is not what a run would find now.
    saved.write_text(saved.read_text().replace(image.analysis_key, 64 * "0"))
    other = finder_of_version(version, lambda: pytest.fail("the models were loaded"))
    with pytest.raises(pytest.fail.Exception):
        other(other.of_file(image_HW3, image.digest))
    # Without its store.
    saved.unlink()
    lost = finder_of_version(version, lambda: pytest.fail("the models were loaded"))
    with pytest.raises(pytest.fail.Exception):
        lost(lost.of_file(image_HW3, image.digest))


def test_a_store_that_cannot_be_written_costs_the_cache_only(
    folder: Path, tmp_path: Path, calls: Counter[str]
) -> None:
    (tmp_path / "store").write_text("a file where the folder should be")
    settings = settings_of(folder, tmp_path / "store")
    find: StudiedFinder = finder_for(settings)
    _, image_HW3 = next(good_images(settings, find, ("train",)))
    assert len(find(image_HW3)) > 5
    assert calls["SAM"] == 1
