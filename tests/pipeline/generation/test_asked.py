"""Missing parts are asked for once, after part kinds are known, and belong to the version."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import toy_rules as toy

from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.generation import asked
from pipeline.generation import plan as planning
from pipeline.generation.analysis import models_for
from pipeline.generation.asked import pixels_and_asked
from pipeline.generation.cache_codecs import pack_analysis
from pipeline.generation.cache_keys import calibration_images
from pipeline.generation.calibrate import normal_model_of
from pipeline.generation.pack import pack
from pipeline.generation.plan import RunPlan
from pipeline.generation.sampler import generate_batch
from pipeline.generation.stored_images import StoredImages
from pipeline.imaging.decode import load_image
from pipeline.records import Analysis, ForegroundMask, ObjectProposals

IMAGES = 9


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    """Nine boards, analysed; in the one with the smallest digest a disc was overlooked."""
    root = tmp_path_factory.mktemp("asked")
    (root / "board").mkdir()
    for seed in range(IMAGES):
        # With noise: equal parts of two drawings would be infinitely alike.
        noise = np.random.default_rng(seed).normal(0, 6, (toy.SIZE, toy.SIZE, 3))
        noisy_HW3 = np.clip(toy.board(seed) + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(root / "board" / f"{seed}.png"), noisy_HW3[..., ::-1])
    manifest = manifest_for_source(
        "folder", root / "board", store=str(root / "store"), image_size=toy.SIZE,
        models={"inpaint": {"backend": "telea"}}, gate={"patches": False},
        edits={"per_image": 1, "controls_per_image": 0},
    )  # fmt: skip
    plan = planning.plan(resolve(manifest, "board"))
    for image in plan.images:
        lost = 1 if image == calibration_images(plan.images)[0] else 0
        image_HW3 = load_image(Path(image.path), plan.settings.image_size)
        masks_NHW = toy.ToyFinder()(toy.board(int(Path(image.path).stem))).masks_NHW
        foreground = ForegroundMask(masks_NHW.any(0))
        every = ObjectProposals(
            masks_NHW, np.full(len(masks_NHW), 0.8, np.float32), foreground.mask_HW
        )
        kept_NHW = masks_NHW[lost:]
        objects = ObjectProposals(
            kept_NHW, every.scores_N[lost:], foreground.mask_HW,
            vectors_NC=models_for(plan).embed(image_HW3, kept_NHW),
        )  # fmt: skip
        entry = pack_analysis(image_HW3, Analysis(foreground, objects, every))
        plan.cache.write("analysis", image.analysis_key, *entry)
    return plan


def test_only_images_that_lack_a_part_are_asked_and_those_once(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {image: pixels_and_asked(plan, image)[1] for image in plan.images}
    lacking = calibration_images(plan.images)[0]
    assert [image for image, one in found.items() if one.again] == [lacking]
    assert {len(one) for one in found.values()} == {5}
    monkeypatch.setattr(asked, "models_for", lambda plan: pytest.fail("asked a second time"))
    again = pixels_and_asked(plan, lacking)[1]
    assert again.again == 1
    assert np.array_equal(again.masks_NHW, found[lacking].masks_NHW)
    assert again.vectors_NC is not None
    assert again.vectors_NC.tobytes() == np.asarray(found[lacking].vectors_NC).tobytes()
    # The kinds were learned before.
    kinds = normal_model_of(plan).part_kinds
    assert kinds is not None
    assert len(kinds.points_MD) == 5 * len(calibration_images(plan.images)) - 1


def test_a_version_says_what_was_asked_for_and_knows_what_the_kinds_were_learned_from(
    plan: RunPlan,
) -> None:
    generate_batch(plan, plan.images)
    version = pack(plan, [])
    records = {record["name"]: record for _, record in version.images()}
    lacking = calibration_images(plan.images)[0]
    assert {name for name, one in records.items() if "asked_again" in one} == {lacking.name}
    assert records[lacking.name]["asked_again"] == 1
    assert {one["proposals"] for one in records.values()} == {5}
    before, after = (
        normal_model_of(plan).part_kinds, StoredImages(version, models_for(plan).embed).part_kinds()
    )  # fmt: skip
    assert before is not None
    assert after is not None
    assert np.allclose(before.points_MD, after.points_MD)
