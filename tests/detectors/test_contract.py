"""The contract that every registered detector keeps: trained small, scored, saved, explained.

A new detector gets these tests through its line in the registry. Everything runs in fp32 on the
CPU, on images of a grid of discs, where a coloured block is an obvious anomaly.

Shapes: B batch; H, W image; 3 colour.
"""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_results import image_result, small_version
from torch import Tensor

from detectors import registry
from detectors.base import Detector
from detectors.data.batches import Feed
from detectors.data.dataset import VersionDataset, collate
from detectors.registry import Recipe, configure
from detectors.training.checkpoint import Restored, load
from detectors.training.job import TrainJob, TrainReport
from detectors.training.trainer import train
from pipeline.dataset.version import Version, open_version
from pipeline.records import ImageResult

# `parts` needs images with parts and networks that a checkpoint does not hold: test_parts.py.
NAMES = tuple(name for name in registry.DETECTORS if name != "parts")
SIZE, STEPS, BATCH = 64, 24, 4
CPU = torch.device("cpu")
SHRUNK = {
    # Its second stage needs some hundred steps for a useful map, and is tested in
    # tests/detectors/models/test_destseg.py.
    "destseg": {"segmentation": False},
}
EXACT = {"device": "cpu", "precision": "fp32"}


@dataclass(frozen=True)
class Trained:
    """The results of training a detector."""

    recipe: Recipe
    version: Version
    report: TrainReport
    folder: Path


def disc_result(number: int) -> ImageResult:
    """A grid of discs with a little jitter and noise, and three accepted samples."""
    result = image_result(number, (SIZE, SIZE))
    rng = np.random.default_rng([5, number])
    y, x = np.mgrid[:SIZE, :SIZE] + rng.integers(-1, 2, (2, 1, 1))
    inside = np.hypot(y % 16 - 8, x % 16 - 8) < 5
    pixels = np.where(inside[..., None], (200, 120, 40), (60, 70, 90)) + rng.normal(
        0, 3, (SIZE, SIZE, 3)
    )
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    attempts = []
    for attempt in result.attempts:
        if attempt.sample is not None:
            mask = attempt.sample.change_HW
            edited = np.where(mask[..., None], (20, 160, 30), image).astype(np.uint8)
            attempt = replace(attempt, sample=replace(attempt.sample, pixels_HW3=edited))
        attempts.append(attempt)
    return replace(result, pixels_HW3=image, attempts=tuple(attempts))


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Fifteen images, three of them for validation."""
    results = [disc_result(number) for number in range(15)]
    return small_version(tmp_path_factory.mktemp("store"), results=results, tests=0)


def small_recipe(name: str) -> Recipe:
    """The tiny profile with smaller images and fewer steps."""
    plain = configure(name, "tiny")
    changes: dict[str, Any] = {"size": SIZE}
    if plain.settings.trains():
        steps = min(STEPS, plain.schedule.steps)
        changes |= {"steps": steps, "batch_size": BATCH, "validate_every": 0}
    return configure(name, "tiny", changes | SHRUNK.get(name, {}))


@pytest.fixture(scope="module", params=NAMES)
def trained(
    request: pytest.FixtureRequest, version: Version, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    folder = tmp_path_factory.mktemp("runs") / request.param
    recipe = small_recipe(request.param)
    job = TrainJob(recipe=recipe, version=version.dir, out=folder, board=False, **EXACT)
    return Trained(recipe, version, train(job), folder)


@pytest.fixture(scope="module")
def restored(trained: Trained) -> Restored:
    return load(trained.folder, **EXACT)


@pytest.fixture(scope="module")
def images(version: Version) -> Tensor:
    """(6, 3, H, W): three validation normals, and the same with a coloured block."""
    normals = VersionDataset.normals(version, "validation")
    clean = collate(normals.__getitems__([0, 1, 2]))["image"]
    altered = clean.clone()
    altered[:, :, 12:44, 16:48] = torch.tensor([250, 0, 200], dtype=torch.uint8).view(3, 1, 1)
    return torch.cat([clean, altered]).contiguous(memory_format=torch.channels_last)


def sum_of_losses(detector: Detector, trained: Trained) -> float:
    """The mean total loss over fixed training batches, under fixed seeds.

    In training mode, as batch norm's running statistics lag behind after a few steps. With the
    terms of the first and of the last step, because some detectors train in stages.
    """
    if detector.view == "sources":
        dataset = VersionDataset.sources(trained.version, "train")
    else:
        dataset = VersionDataset.normals(trained.version, "train")
    steps, sums = trained.report.steps, []
    for number, batch in enumerate(Feed(dataset, BATCH, SIZE, CPU, numbered=False)):
        for step in (0, steps - 1):
            torch.manual_seed(number)
            with torch.no_grad():
                terms = detector.train().losses(batch, step, steps)
            sums.append(sum(float(value) for value in terms.values()))
    return float(np.mean(sums))


def untrained(trained: Trained) -> Detector:
    """The detector before its first step."""
    torch.manual_seed(0)
    detector = registry.assemble(trained.recipe.name, trained.recipe.settings)
    detector.to(memory_format=torch.channels_last).eval()
    with torch.no_grad():
        detector.prepare(Feed(VersionDataset.normals(trained.version), 8, SIZE, CPU))
    return detector


def test_training_lowers_the_loss(trained):
    if not trained.recipe.schedule.steps:
        pytest.skip("this detector has no loss")
    fresh, ready = untrained(trained), load(trained.folder, **EXACT).detector
    before, after = (sum_of_losses(detector, trained) for detector in (fresh, ready))
    assert np.isfinite(after)
    assert after < before


@torch.inference_mode()
def test_scores_have_their_shape_and_are_finite(restored, images):
    scores = restored.detector(images)
    assert (scores.image_B.shape, scores.image_B.dtype) == ((6,), torch.float32)
    assert (scores.maps_BHW.shape, scores.maps_BHW.dtype) == ((6, SIZE, SIZE), torch.float32)
    assert scores.image_B.isfinite().all()
    assert scores.maps_BHW.isfinite().all()


@torch.inference_mode()
def test_a_coloured_block_scores_higher_than_the_same_image_without(restored, images):
    scores = restored.detector(images)
    assert (scores.image_B[3:] > scores.image_B[:3].max()).all()
    inside = scores.maps_BHW[3:, 12:44, 16:48].mean((1, 2))
    assert (inside > scores.maps_BHW[:3, 12:44, 16:48].mean((1, 2))).all()


@torch.inference_mode()
def test_a_checkpoint_gives_the_same_scores_bit_for_bit(trained, restored, images):
    again = load(trained.folder, **EXACT).detector
    for one, other in zip(restored.detector(images), again(images), strict=True):
        assert torch.equal(one, other)


@torch.inference_mode()
def test_scores_do_not_depend_on_order_or_size_of_a_batch(restored, images):
    whole = restored.detector(images)
    turned = restored.detector(images.flip(0).contiguous(memory_format=torch.channels_last))
    single = [restored.detector(image[None]) for image in images]
    # Tolerances relative to the spread of the scores.
    spread = whole.image_B.std().item()
    for image_B in (turned.image_B.flip(0), torch.cat([score.image_B for score in single])):
        torch.testing.assert_close(image_B, whole.image_B, rtol=1e-3, atol=1e-3 * spread)
    maps_BHW = torch.cat([score.maps_BHW for score in single])
    spread = whole.maps_BHW.std().item()
    torch.testing.assert_close(maps_BHW, whole.maps_BHW, rtol=1e-3, atol=2e-3 * spread)


def test_nothing_frozen_moves_in_a_step_or_in_training_mode(trained):
    """Frozen parameters are bit-identical after training, and frozen modules in evaluation mode."""
    before, after = untrained(trained), load(trained.folder, **EXACT).detector
    frozen = {name for name, value in before.named_parameters() if not value.requires_grad}
    trains = {name for name, value in before.named_parameters() if value.requires_grad}
    new = dict(after.named_parameters())
    for name, value in before.named_parameters():
        if name in frozen:
            assert torch.equal(value, new[name]), name
    assert bool(trains) == bool(trained.recipe.schedule.steps)
    # Modules whose parameters are all frozen, such as the teacher.
    frozen_modules = [
        module
        for module in before.train().modules()
        if module is not before
        and list(module.parameters())
        and not any(p.requires_grad for p in module.parameters())
    ]
    assert frozen_modules
    assert not any(module.training for module in frozen_modules)


@torch.no_grad()
def test_calibration_is_the_same_every_time(trained, restored):
    detector = load(trained.folder, **EXACT).detector
    normals = VersionDataset.normals(trained.version, "train")
    validation = VersionDataset.normals(trained.version, "validation")
    feeds = [Feed(data, 8, SIZE, CPU, numbered=False) for data in (normals, validation)]
    detector.calibrate(*feeds)
    saved = restored.detector.state_dict()
    for name, value in detector.state_dict().items():
        assert torch.equal(value, saved[name]), name


@torch.inference_mode()
def test_explanations_are_maps_of_the_images_size(restored, images):
    for name, maps_BHW in restored.detector.explain(images).items():
        assert maps_BHW.shape == (6, SIZE, SIZE), name
        assert maps_BHW.isfinite().all(), name


def test_the_checkpoint_holds_everything_that_scoring_needs(trained, images):
    """Scores of a detector filled from the checkpoint do not depend on its initial weights."""

    @cache
    def scores(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with torch.inference_mode():
            return load(trained.folder, **EXACT).detector(images).image_B

    assert torch.equal(scores(1), scores(2))


def test_thresholds_and_validation_are_reported(trained):
    found = trained.report.validation
    assert found["normals"] == 3
    assert found["synthetics"] == 6
    assert 0 <= found["auroc"] <= 1
    assert set(found["auroc_by_kind"]) == {"missing", "extra"}
    assert found["threshold_5"] <= found["threshold_1"]
    assert open_version(trained.version.dir).digest == trained.version.digest


@pytest.mark.parametrize("name", [name for name in NAMES if name != "glcf"])
@pytest.mark.parametrize("profile", registry.PROFILES)
def test_settings_know_whether_there_is_anything_to_train(name, profile):
    settings = configure(name, profile).settings
    # Without memory for weights; GLCF's networks cannot be built like that, and always train.
    with torch.device("meta"):
        detector = registry.entry(name).build(settings, None)
    assert settings.trains() == any(one.requires_grad for one in detector.parameters())


def test_every_entry_describes_itself():
    assert len(NAMES) == len(set(NAMES)) == 7
    for name, entry in registry.DETECTORS.items():
        assert entry.name == name
        assert "\n" not in entry.summary
        assert entry.citation.endswith(".")
        assert {type(entry.paper[0])} == {type(entry.tiny[0])}
