"""EfficientAD: its losses and its scale against plain formulas, its switches, its files."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from toy_normals import Toys, onnx_scores, pictures, trained

from detectors.base import Batch
from detectors.data.image_folder import FolderPictures
from detectors.models.efficientad.model import (
    EfficientAd,
    EfficientAdSettings,
    build,
    hard_loss,
    jittered,
    masked_mean,
)
from detectors.networks.pdn import cells
from detectors.networks.teachers import TEACHERS
from detectors.registry import DETECTORS, assemble, configure
from pipeline.errors import UserError
from pipeline.models.backbone import normalise


def small(**changes: object) -> EfficientAdSettings:
    """A detector of some ten thousand parameters on pictures of 64 px."""
    return EfficientAdSettings(
        size=64, teacher="bundled-teacher", pdn="small", width=0.125, autoencoder_width=0.25,
        learning_rate=2e-3,
    ).model_copy(update=changes)  # fmt: skip


def made(**changes: object) -> EfficientAd:
    torch.manual_seed(0)
    detector = assemble("efficientad", small(**changes))
    assert isinstance(detector, EfficientAd)
    return detector


@pytest.fixture(scope="module")
def fitted() -> EfficientAd:
    """Prepared, trained for a moment, calibrated on six other normals."""
    detector = made()
    trained(detector, pictures(8), steps=15)
    detector.calibrate(Toys(pictures(8)), Toys(pictures(6, seed=1)))
    return detector


# --- against independent references ---------------------------------------------------------------


def test_the_paper_size_has_the_parameters_of_the_paper() -> None:
    settings = DETECTORS["efficientad"].paper[0]
    detector = build(settings, None)
    assert sum(value.numel() for value in detector.parameters()) == 20_738_432
    small_one = build(
        settings.model_copy(update={"pdn": "small", "teacher": "efficientad-s"}), None
    )
    assert sum(value.numel() for value in small_one.parameters()) == 8_057_856


@settings(deadline=None)
@given(
    seed=st.integers(0, 100),
    quantile=st.sampled_from([0.0, 0.5, 0.9, 0.97, 0.999]),
    coarse=st.booleans(),
)
def test_the_hard_loss_is_the_mean_above_each_pictures_quantile(
    seed: int, quantile: float, coarse: bool
) -> None:
    torch.manual_seed(seed)
    target, found = torch.randn(2, 3, 5, 4, 4)
    if coarse:  # many equal differences
        target, found = target.round(), found.round()
    expected = []
    for one, other in zip(target, found, strict=True):
        squares = ((one - other) ** 2).flatten()
        expected.append(squares[squares >= torch.quantile(squares, quantile)].mean())
    loss = hard_loss(target, found, quantile)
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    assert loss >= F.mse_loss(found, target) - 1e-6


def test_the_losses_are_the_formulas_of_the_paper() -> None:
    detector = made(dropout=0.0, hard_quantile=0.9).train()
    detector.prepare(Toys(pictures(8)))
    images = pictures(8)[:2]  # numbers 0 and 1 of those prepared
    torch.manual_seed(5)
    terms = detector.losses({"image": images, "index": torch.arange(2)}, 0, 10)
    torch.manual_seed(5)
    other = normalise(jittered(images))
    clean = normalise(images)
    channels = detector.teacher.channels
    whole = detector.student(clean)
    assert whole.shape[1] == 2 * channels
    jittered_student = detector.student(other)[:, channels:]
    autoencoder = detector.autoencoder(other)
    teacher = detector.teacher(other)
    expected = {
        "student": hard_loss(detector.teacher(clean), whole[:, :channels], 0.9),
        "autoencoder": ((teacher - autoencoder) ** 2).mean(),
        "student_autoencoder": ((autoencoder - jittered_student) ** 2).mean(),
    }
    torch.testing.assert_close(terms, expected)


def test_the_jitter_is_pillows() -> None:
    image = torch.randint(0, 256, (1, 3, 16, 20), dtype=torch.uint8)
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    editors = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        which = int(torch.randint(3, (1, 1, 1, 1)))
        factor = 1 + 0.2 * (2 * float(torch.rand((1, 1, 1, 1))) - 1)
        expected = np.asarray(editors[which](picture).enhance(factor)).transpose(2, 0, 1)
        torch.manual_seed(seed)
        found = jittered(image)[0].numpy()
        # Pillow rounds the grey picture before it blends.
        assert np.abs(found.astype(int) - expected).max() <= 2, which
        seen.add(which)
    assert seen == {0, 1, 2}


# --- the scale of the maps ------------------------------------------------------------------------


def test_validation_normals_have_the_promised_quantiles(fitted: EfficientAd) -> None:
    with torch.no_grad():
        maps = [fitted.scaled_maps(fitted.evidence(b["image"])) for b in Toys(pictures(6, seed=1))]
    for place in range(2):
        cells_N = torch.cat([pair[place].flatten() for pair in maps]).numpy()
        low, high = np.quantile(cells_N, [0.9, 0.995])
        assert low == pytest.approx(0, abs=1e-5)
        assert high == pytest.approx(0.1, abs=1e-5)


def test_the_border_cannot_win_and_shows_the_lowest_value(fitted: EfficientAd) -> None:
    images = pictures(3, seed=2)
    with torch.no_grad():
        score_B, maps_BHW = fitted(images)
        fused_Bhw = fitted.fused(fitted.evidence(images))
    assert maps_BHW.shape == (3, 64, 64)
    torch.testing.assert_close(score_B, fused_Bhw.flatten(1).max(1).values)
    corner_B = maps_BHW[:, 0, 0]
    torch.testing.assert_close(corner_B, fused_Bhw.flatten(1).min(1).values)
    torch.testing.assert_close(maps_BHW.flatten(1).min(1).values, corner_B)


def test_a_peak_lies_where_its_cell_sees(fitted: EfficientAd) -> None:
    """The middle of cell (i, j) is pixel (4 i + 18, 4 j + 18)."""
    maps = torch.zeros(1, cells(64), cells(64))
    maps[0, 2, 5] = 1
    peak = int(fitted.pictured(maps)[0].argmax())
    row, column = divmod(peak, 64)
    assert abs(row - (4 * 2 + 17.5)) <= 2
    assert abs(column - (4 * 5 + 17.5)) <= 2


def test_a_constant_map_has_a_finite_scale() -> None:
    detector = made()
    evidence = detector.evidence(pictures(2))
    flat = torch.ones_like(evidence.student_Bhw)
    detector._set_quantiles([evidence._replace(student_Bhw=flat, autoencoder_Bhw=flat)])
    score_B, maps_BHW = detector(pictures(2))
    assert torch.isfinite(score_B).all()
    assert torch.isfinite(maps_BHW).all()


def test_without_validation_normals_there_is_no_scale() -> None:
    with pytest.raises(UserError, match="validation normals"):
        made().calibrate(Toys(pictures(2)), [])


def test_scoring_has_no_dropout_in_any_mode_and_is_the_mean_of_its_maps(
    fitted: EfficientAd,
) -> None:
    images = pictures(2, seed=3)
    with torch.no_grad():
        expected = fitted(images)
        parts = fitted.explain(images)
        fitted.train()
        for _ in range(2):
            assert torch.equal(fitted(images).maps_BHW, expected.maps_BHW)
        fitted.eval()
    assert set(parts) == {"student", "autoencoder"}
    mean_BHW = 0.5 * (parts["student"] + parts["autoencoder"])
    # The borders differ: each map has a lowest value of its own.
    inner = slice(20, 44)
    torch.testing.assert_close(
        mean_BHW[:, inner, inner], expected.maps_BHW[:, inner, inner], rtol=1e-4, atol=1e-4
    )


# --- training -------------------------------------------------------------------------------------


def test_it_overfits_eight_pictures() -> None:
    losses = trained(made(), pictures(8), steps=200, until=0.5)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_a_bar_that_no_good_picture_has_stands_out() -> None:
    detector = made(hard_quantile=0.9)
    trained(detector, pictures(8), steps=60)
    detector.calibrate(Toys(pictures(8)), Toys(pictures(6, seed=1)))
    strange = pictures(4, seed=7)
    strange[:, 0, 30:36, 20:44] = 250
    with torch.no_grad():
        assert detector(strange).image_B.min() > detector(pictures(8, seed=5)).image_B.max()


def test_kept_features_change_nothing_but_the_time() -> None:
    batch = {"image": pictures(8)[2:5], "index": torch.tensor([2, 3, 4])}
    found = []
    for size in (2.0, 0.0, 1e-4):
        detector = made(cache_teacher_gib=size).train()
        detector.prepare(Toys(pictures(8)))
        assert (detector.cache.table_NChw is not None) == (size == 2.0)
        torch.manual_seed(0)
        found.append(detector.losses(batch, 0, 10))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-4, atol=1e-6)
    assert not any("cache" in name for name in detector.state_dict())


def test_the_rate_falls_to_a_tenth_after_95_percent() -> None:
    optimizer, schedule = made(learning_rate=1e-3).optimizer(100)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-3] * 95 + [1e-4] * 5)


def test_the_teacher_stays_as_it_is() -> None:
    detector = made()
    before = {name: value.clone() for name, value in detector.teacher.trunk.state_dict().items()}
    trained(detector, pictures(4), steps=3)
    for name, value in detector.teacher.trunk.state_dict().items():
        assert torch.equal(value, before[name]), name


# --- penalties ------------------------------------------------------------------------------------


def sources(count: int, label: int) -> Batch:
    images = pictures(count)
    edited = images.clone()
    edited[:, :, 24:40, 24:40] = 255
    masks = torch.zeros(count, 64, 64, dtype=torch.uint8)
    masks[:, 24:40, 24:40] = 1
    return {
        "original": images, "edited": edited, "mask": masks,
        "label": torch.full((count,), label), "kind": torch.zeros(count, dtype=torch.int64),
        "index": torch.arange(count) + 100,
    }  # fmt: skip


def test_the_synthetic_penalty_is_the_mean_square_on_the_edited_cells() -> None:
    detector = made(penalty="synthetic").train()
    assert detector.view == "sources"
    assert (detector.settings.sources().clean_share, detector.settings.sources().controls) == (
        0,
        False,
    )
    detector.prepare(Toys(pictures(8)))
    batch = sources(2, label=1)
    found = detector.losses(batch, 0, 10)["penalty"]
    half = detector.student(normalise(batch["edited"]))[:, : detector.teacher.channels]
    # Pixels 24 to 39 lie on cells 2 to 5 of the eight, which begin at pixel 16.
    torch.testing.assert_close(found, (half[:, :, 2:6, 2:6] ** 2).mean(), rtol=1e-4, atol=1e-6)
    assert detector.losses(sources(2, label=0), 0, 10)["penalty"].item() == 0


def test_a_mask_beside_all_cells_weighs_nothing() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[:, :8] = 1
    assert masked_mean(torch.ones(1, 3, 8, 8), masks).item() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures in two subfolders, one of them damaged."""
    rng = np.random.default_rng(0)
    for number in range(5):
        path = tmp_path / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    (tmp_path / "0" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    return tmp_path


def test_foreign_pictures_come_from_the_middle_of_a_folders_files(folder: Path) -> None:
    found = FolderPictures(folder, 32)
    assert len(found.paths) == 6
    torch.manual_seed(0)
    first = found.draw(40, torch.device("cpu"))
    assert first.shape == (40, 3, 32, 32)
    middles = []
    for path in found.paths:
        if path.name != "cut.jpg":
            whole = Image.open(path).resize((64, 64), Image.Resampling.BILINEAR)
            middles.append(np.asarray(whole)[16:48, 16:48].transpose(2, 0, 1))
    grey = 0
    for image in first:
        if (image[0] == image[1]).all():
            grey += 1
        else:
            assert any((image.numpy() == middle).all() for middle in middles)
    assert 4 <= grey <= 20  # three in ten
    torch.manual_seed(0)
    assert torch.equal(found.draw(40, torch.device("cpu")), first)


def test_the_imagenet_penalty_is_the_mean_square_on_foreign_pictures(folder: Path) -> None:
    detector = made(penalty="imagenet", penalty_folder=folder).train()
    detector.prepare(Toys(pictures(8)))
    assert detector.pictures is not None
    torch.manual_seed(3)
    terms = detector.losses({"image": pictures(1), "index": torch.arange(1)}, 0, 10)
    torch.manual_seed(3)
    jittered(pictures(1))
    foreign = normalise(detector.pictures.draw(1, torch.device("cpu")))
    half = detector.student(foreign)[:, : detector.teacher.channels]
    torch.testing.assert_close(terms["penalty"], (half**2).mean(), rtol=1e-4, atol=1e-6)


def test_a_penalty_without_pictures_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="penalty_folder"):
        made(penalty="imagenet").prepare(Toys(pictures(2)))
    with pytest.raises(UserError, match="found none"):
        made(penalty="imagenet", penalty_folder=tmp_path).prepare(Toys(pictures(2)))


# --- settings and files ---------------------------------------------------------------------------


@pytest.mark.parametrize("pdn", ["small", "medium"])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_every_teacher_goes_with_every_student(pdn: str, teacher: str) -> None:
    changes = {"pdn": pdn, "teacher": teacher, "size": "64", "width": "0.125"}
    recipe = configure("efficientad", "paper", changes)
    detector = assemble("efficientad", recipe.settings, weights=False).eval()
    with torch.no_grad():
        score_B, maps_BHW = detector(pictures(1))
    assert (score_B.shape, maps_BHW.shape) == ((1,), (1, 64, 64))


def test_a_state_dict_is_the_whole_detector(fitted: EfficientAd) -> None:
    other = assemble("efficientad", fitted.settings, weights=False).eval()
    other.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(other(pictures(2)).maps_BHW, fitted(pictures(2)).maps_BHW)


@pytest.mark.slow  # LA-EAD, which is all of this and more, is exported in the ordinary suite
def test_onnxruntime_gives_the_same_scores(fitted: EfficientAd) -> None:
    images = pictures(3, seed=9)
    score_B, maps_BHW = onnx_scores(fitted, images)
    with torch.no_grad():
        expected = fitted(images)
    np.testing.assert_allclose(score_B, expected.image_B, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(maps_BHW, expected.maps_BHW, rtol=1e-3, atol=1e-4)


def test_bfloat16_gives_nearly_the_same_scores(fitted: EfficientAd) -> None:
    images = torch.cat([pictures(4, seed=9), pictures(4, seed=10, dot=False)])
    with torch.no_grad():
        exact = fitted(images).image_B
        with torch.autocast("cpu", torch.bfloat16):
            reduced = fitted(images)
    assert reduced.image_B.dtype == reduced.maps_BHW.dtype == torch.float32
    torch.testing.assert_close(reduced.image_B, exact, rtol=0.1, atol=0.05)
