"""Surfaces of parts under magnification, with colours instead of a network's features."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.models.parts.surfaces import LARGEST, Known, Surface, Surfaces
from detectors.models.parts.windows import Window, peak_box, window_around
from detectors.networks.patch_memory import Pair

SIZE, RADIUS = 64, 9
AT = [(16, 20), (44, 40), (16, 46)]


def colours(images_B3HW: Tensor) -> Pair:
    """Mean colours in cells of 8 and 16 px."""
    scaled_B3HW = images_B3HW.float() / 255
    return F.avg_pool2d(scaled_B3HW, 8), F.avg_pool2d(scaled_B3HW, 16)


def plate(seed: int, scratched: bool = False) -> tuple[np.ndarray, Known]:
    """Three discs of one kind; the second may have a scratch of 2 x 7 px at its right."""
    rng = np.random.default_rng(seed)
    image_HW3 = rng.normal(90, 3, (SIZE, SIZE, 3))
    ys, xs = np.mgrid[:SIZE, :SIZE]
    masks_NHW = np.stack([(xs - x) ** 2 + (ys - y) ** 2 <= RADIUS**2 for x, y in AT])
    image_HW3[masks_NHW.any(0)] += 60
    if scratched:
        image_HW3[37:44, 48:50] = 30
    return image_HW3.clip(0, 255).astype(np.uint8), (masks_NHW, [0, 0, 0])


def tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def learnt(plates: list[tuple[np.ndarray, Known]]) -> tuple[Surfaces, list[list[Surface]]]:
    surfaces = Surfaces((3, 3))
    batches = [{"image": one} for one in tensor([image for image, _ in plates]).split(4)]
    return surfaces, surfaces.learn(batches, [known for _, known in plates], 1, colours)


def judged(surfaces: Surfaces, image_HW3: np.ndarray, known: Known) -> list[Surface]:
    return surfaces.of(tensor([image_HW3]), [known], colours)[0]


def test_a_scratch_is_seen_where_it_is():
    surfaces, _ = learnt([plate(seed) for seed in range(10)])
    good = [one for seed in range(50, 60) for one in judged(surfaces, *plate(seed))]
    whole, scratched, _ = judged(surfaces, *plate(70, scratched=True))
    assert (whole.number, scratched.number) == (0, 1)
    assert scratched.off > 3 * max(one.off for one in good)
    assert scratched.times > 2
    map_HW = scratched.map_HW((SIZE, SIZE))
    assert map_HW.max() == pytest.approx(1)
    y, x = np.unravel_index(int(map_HW.argmax()), map_HW.shape)
    assert 36 <= y <= 44
    assert 47 <= x <= 50
    x0, y0, x1, y1 = peak_box(map_HW)
    assert x0 <= 48 < x1
    assert y0 <= 40 < y1


def test_good_parts_are_judged_by_other_images():
    """Else the one scratched part among the good ones would explain itself."""
    plates = [plate(seed, scratched=seed == 3) for seed in range(10)]
    surfaces, own = learnt(plates)
    assert max((one.off, at) for at, of in enumerate(own) for one in of)[1] == 3
    # A fresh scratch is like a known one.
    assert judged(surfaces, *plate(70, scratched=True))[1].off < own[3][1].off / 2


def test_what_changes_all_parts_alike_is_not_what_is_wrong_with_one():
    surfaces, _ = learnt([plate(seed) for seed in range(10)])
    good = max(one.off for seed in range(50, 60) for one in judged(surfaces, *plate(seed)))
    image_HW3, (masks_NHW, kinds) = plate(70, scratched=True)
    dark_HW3 = (0.8 * image_HW3).astype(np.uint8)
    first, scratched, third = judged(surfaces, dark_HW3, (masks_NHW, kinds))
    assert max(first.off, third.off) < 2 * good
    assert scratched.off > 4 * good
    # Two parts cannot outvote each other.
    pair = judged(surfaces, dark_HW3, (masks_NHW[[0, 2]], [0, 0]))
    assert min(one.off for one in pair) > 2 * good


def test_what_a_single_good_image_shows_is_no_kind():
    image_HW3, (masks_NHW, _) = plate(0)
    surfaces, own = learnt(
        [(image_HW3, (masks_NHW, [0, -1, -1])), (image_HW3, (masks_NHW, [-1, -1, -1]))]
    )
    assert own == [[], []]
    assert judged(surfaces, image_HW3, (masks_NHW, [0, 0, 0])) == []


def test_a_checkpoint_holds_the_patches():
    surfaces, _ = learnt([plate(seed) for seed in range(4)])
    again = Surfaces((3, 3))
    again.load_state_dict(surfaces.state_dict())
    for one, other in zip(judged(surfaces, *plate(9)), judged(again, *plate(9)), strict=True):
        assert (one.off, one.times, one.window) == (other.off, other.times, other.window)


@pytest.mark.parametrize(("radius", "pixels"), [(9, 192), (90, 256), (400, LARGEST)])
def test_small_parts_are_enlarged_and_large_ones_not_reduced_unless_they_are_huge(radius, pixels):
    side = 2 * radius + 40
    ys, xs = np.mgrid[:side, :side]
    mask_HW = (xs - side // 2) ** 2 + (ys - side // 2) ** 2 <= radius**2
    seen = []

    def describe(images_B3HW: Tensor) -> Pair:
        seen.append(images_B3HW.shape[2])
        return colours(images_B3HW)

    blank = np.zeros((side, side, 3), np.uint8)
    batches = [{"image": tensor([blank, blank])}]
    Surfaces((3, 3)).learn(batches, [(mask_HW[None], [0])] * 2, 1, describe)
    assert set(seen) == {pixels}


def test_a_window_is_put_back_where_it_was_cut():
    image_HW = np.zeros((40, 60), np.float32)
    image_HW[10:18, 32:40] = 1
    window = window_around(image_HW > 0, 24)
    assert window == Window(24, 2, 24)
    cells_hw = window.cut(image_HW, 24)
    np.testing.assert_allclose(window.put_back(cells_hw, (40, 60)), image_HW, atol=1e-5)
    assert peak_box(window.put_back(window.cut(image_HW, 96), (40, 60))) == (32, 10, 40, 18)
    # Beyond the border the image goes on as its mirror image.
    assert window_around(image_HW > 0, 60).cut(image_HW, 60).shape == (60, 60)
