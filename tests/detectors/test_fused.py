"""Two detectors as one: standardised, the larger counts; weights from synthetic anomalies."""

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors.base import Batches, Detector, Scores
from detectors.fused import Fused
from detectors.models.parts.settings import PartsSettings


class Mean(Detector):
    """Scores an image by the mean of one channel, in units of its own."""

    def __init__(self, channel: int, unit: float) -> None:
        super().__init__(PartsSettings(size=64))
        self.channel, self.unit = channel, unit
        self.register_buffer("seen", torch.zeros(()))

    def prepare(self, normals: Batches) -> None:
        self.seen.fill_(sum(len(batch["image"]) for batch in normals))

    def forward(self, images_B3HW: Tensor) -> Scores:
        maps_BHW = images_B3HW[:, self.channel].float() * self.unit
        return Scores(maps_BHW.mean((1, 2)), maps_BHW)


def noisy(count: int, seed: int, red: float = 0, green: float = 0) -> Tensor:
    """Grey plates whose red or green level is raised."""
    rng = np.random.default_rng(seed)
    levels = rng.normal(100, 5, (count, 3)) + np.array((red, green, 0))
    return torch.from_numpy(
        np.broadcast_to(levels[:, :, None, None], (count, 3, 64, 64)).astype(np.uint8)
    )


@pytest.fixture
def detector() -> Fused:
    made = Fused(Mean(0, 1.0), Mean(1, 1000.0)).eval()
    normals = [{"image": noisy(30, 0)}]
    made.prepare(normals)
    made.calibrate(normals, normals)
    return made


def fuse(detector: Fused, red: float = 0, green: float = 0) -> None:
    normals_NP, pairs_MP = (
        detector.parts(images).double() for images in (noisy(40, 1), noisy(40, 2, red, green))
    )
    detector.fuse(normals_NP, pairs_MP, torch.ones(40), torch.zeros(40))


def test_either_detector_raises_an_alarm_whatever_its_unit(detector):
    fuse(detector)
    normal = detector(noisy(30, 3)).image_B
    for image in (noisy(5, 4, red=40), noisy(5, 4, green=40)):
        assert detector(image).image_B.min() > normal.max()


def test_the_score_is_that_of_its_parts(detector):
    fuse(detector, red=20)
    images = noisy(8, 5, green=10)
    torch.testing.assert_close(detector.combined(detector.parts(images)), detector(images).image_B)


@pytest.mark.parametrize(("red", "green", "more"), [(12, 0, True), (0, 12, False)])
def test_synthetic_anomalies_give_more_weight_to_the_one_that_sees_them(detector, red, green, more):
    fuse(detector, red, green)
    assert detector.weight != 0.5
    assert bool(detector.weight > 0.5) == more


def test_without_synthetic_anomalies_both_count_alike(detector):
    parts = detector.parts(noisy(10, 6)).double()
    detector.fuse(parts, parts[:0], torch.zeros(0), torch.zeros(0))
    assert detector.weight == 0.5


def test_a_checkpoint_gives_the_same_scores(detector):
    fuse(detector, green=20)
    again = Fused(Mean(0, 1.0), Mean(1, 1000.0)).eval()
    again.load_state_dict(detector.state_dict())
    images = noisy(6, 7, red=15)
    for one, other in zip(detector(images), again(images), strict=True):
        assert torch.equal(one, other)


class Late(Mean):
    """Its maps have their scale only after `fuse`, as those of `parts`."""

    def __init__(self, channel: int, unit: float) -> None:
        super().__init__(channel, unit)
        self.register_buffer("scale", torch.ones(()))

    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        self.scale.fill_(100)

    def forward(self, images_B3HW: Tensor) -> Scores:
        image_B, maps_BHW = super().forward(images_B3HW)
        return Scores(image_B, maps_BHW * self.scale)


def test_maps_are_joined_on_the_scale_that_they_have_in_the_end():
    made = Fused(Late(0, 1.0), Mean(1, 1.0)).eval()
    normals = [{"image": noisy(30, 0)}]
    made.prepare(normals)
    made.calibrate(normals, normals)
    fuse(made)
    # On normals neither map is above the other, although one of them is a hundred times as high.
    peaks_B = made(noisy(200, 8)).maps_BHW.amax((1, 2))
    red = (made.first(noisy(200, 8)).maps_BHW.amax((1, 2)) - made.map_mean_2[0]).abs()
    assert peaks_B.mean() < 2
    assert red.mean() < 3 * made.map_deviation_2[0]
    # A spot is as high in the joined map, whichever of them sees it.
    heights = []
    for channel in (0, 1):
        image = noisy(1, 9)
        image[0, channel, 10:20, 10:20] = 160
        heights.append(float(made(image).maps_BHW[0, 15, 15]))
    assert heights[0] == pytest.approx(heights[1], rel=0.5)
    assert min(heights) > peaks_B.max()


def test_what_the_second_trains_on_is_what_both_are_given():
    second = Mean(1, 1.0)
    second.view = "sources"
    assert Fused(Mean(0, 1.0), second).view == "sources"
