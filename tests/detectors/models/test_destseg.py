"""DeSTSeg: sizes of its parts, two stages in one run, and what stays frozen in each."""

import copy

import pytest
import torch
from toy_pairs import parameters, toys, trained

from detectors.models.destseg import model as destseg
from detectors.models.destseg.model import DestSeg, DestSegSettings
from detectors.models.destseg.segmentation import Segmentation, focal, products
from detectors.networks.denoising_student import Student
from detectors.networks.unet import UNet
from pipeline.errors import UserError
from pipeline.models.backbone import Trunk, resnet18_trunk


def small(**changes) -> DestSeg:
    torch.manual_seed(0)
    settings = DestSegSettings(size=64, teacher="bundled-teacher", **changes)
    return DestSeg(settings, Trunk((8, 16, 32)))


def test_the_parts_have_the_published_sizes():
    assert parameters(Student()) == 24_665_024
    assert parameters(Segmentation(448, 256)) == 7_706_369  # "about 7.7 M"
    assert parameters(resnet18_trunk()) == 2_782_784


@pytest.mark.parametrize("network", [Student, UNet])
def test_students_give_the_teachers_shapes(network):
    made = network()(torch.zeros(1, 3, 256, 256))
    assert [tuple(level.shape[1:]) for level in made] == [
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
    ]
    assert all((level >= 0).all() for level in made)


def test_the_stages_follow_one_another_in_one_run():
    detector = small(student_share=0.25)
    optimizer, schedule = detector.optimizer(8)
    rates = []
    for step in range(8):
        rates.append([group["lr"] for group in optimizer.param_groups])
        names = set(detector.losses({"image": toys(2)}, step, 8))
        assert names == (
            {"focal", "l1"} if step >= 2 else {"student_fine", "student_middle", "student_coarse"}
        )
        optimizer.step()
        schedule.step()
    assert rates == [[0.4, 0, 0]] * 2 + [[0, 0.1, 0.01]] * 6


def test_the_student_stands_still_in_the_second_stage():
    detector = small()
    batch, steps = {"image": toys(4)}, 10
    optimizer, schedule = detector.optimizer(steps)
    states = []
    for step in range(steps):
        states.append(
            (
                copy.deepcopy(detector.student.state_dict()),
                copy.deepcopy(detector.segmentation.state_dict()),
            )
        )
        detector.train()
        total = sum(detector.losses(batch, step, steps).values())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        schedule.step()
    last = detector.student.state_dict()
    assert all(torch.equal(states[2][0][name], last[name]) for name in last)  # batch norm included
    assert any(not torch.equal(states[0][0][name], states[2][0][name]) for name in last)
    first = states[0][1]
    assert all(torch.equal(first[name], states[2][1][name]) for name in first)
    assert any(not torch.equal(first[name], states[9][1][name]) for name in first)


def test_the_loss_of_the_student_is_the_sum_over_the_batch():
    detector = small(segmentation=False).eval()

    def total(images: torch.Tensor, monkeypatch) -> float:
        monkeypatch.setattr(destseg, "corrupt", lambda x, *_: (x, torch.zeros_like(x[:, 0])))
        return float(sum(detector.losses({"image": images}, 0, 1).values()))

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        images = toys(4)
        alone = sum(total(images[n : n + 1], patch) for n in range(4))
        assert total(images, patch) == pytest.approx(alone, rel=1e-4)


def test_the_segmentation_sees_the_summands_of_the_cosine():
    made = tuple(torch.rand(2, c, s, s) for c, s in ((4, 8), (8, 4), (16, 2)))
    target = tuple(torch.rand_like(level) for level in made)
    seen = products(made, target)
    assert seen.shape == (2, 28, 8, 8)
    cosine = torch.nn.functional.cosine_similarity(made[0], target[0])
    torch.testing.assert_close(-seen[:, :4].sum(1), cosine, atol=1e-4, rtol=1e-4)


def test_the_focal_loss_turns_away_from_what_is_right():
    truth = torch.tensor([[[True, False]]])
    share = torch.tensor([[[0.9, 0.2]]])
    expected = -((0.1**4) * torch.tensor(0.9).log() + (0.2**4) * torch.tensor(0.8).log()) / 2
    torch.testing.assert_close(focal(torch.logit(share), truth), expected)
    certain = torch.tensor([[[-80.0, 80.0]]], requires_grad=True)
    focal(certain, truth).backward()
    assert torch.isfinite(certain.grad).all()


def test_without_the_segmentation_the_map_is_the_product_of_the_levels():
    detector = small(segmentation=False).eval()
    assert detector.segmentation is None
    with torch.no_grad():
        scores = detector(toys(2))
        assert detector.explain(toys(2)) == {}
        whole = small().eval()
        maps = whole.explain(toys(2))
        assert set(maps) == {"dest", "segmentation"}
        torch.testing.assert_close(whole(toys(2)).maps_BHW, maps["segmentation"])
    assert scores.maps_BHW.shape == (2, 64, 64)
    assert scores.maps_BHW.dtype == torch.float32


def test_it_learns_eight_toy_pictures():
    detector = small(student_share=0.5, student_rate=0.1, blocks_rate=0.05)
    totals = trained(detector, {"image": toys()}, 100)
    assert sum(totals[45:50]) < 0.5 * sum(totals[:5])
    assert sum(totals[95:]) < 0.7 * sum(totals[50:55])


def test_textures_are_asked_for_when_they_are_needed(tmp_path):
    settings = DestSegSettings(noise="perlin_dtd")
    with pytest.raises(UserError, match="textures"):
        destseg.build(settings, tmp_path / "resnet18.pth")
    assert destseg.build(settings, None).textures_K3SS is None  # a checkpoint is filled in
