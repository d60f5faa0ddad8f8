"""DeSTSeg: parameter counts, two stages in one run, and what is frozen in each."""

import copy

import pytest
import torch
from toy_pairs import overfit, parameter_count, toy_images

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
    assert parameter_count(Student()) == 24_665_024
    # The paper says about 7.7 M.
    assert parameter_count(Segmentation(448, 256)) == 7_706_369
    assert parameter_count(resnet18_trunk()) == 2_782_784


@pytest.mark.parametrize("network", [Student, UNet])
def test_students_have_the_teachers_shapes(network):
    decoded = network()(torch.zeros(1, 3, 256, 256))
    assert [tuple(level.shape[1:]) for level in decoded] == [
        (64, 64, 64),
        (128, 32, 32),
        (256, 16, 16),
    ]
    assert all((level >= 0).all() for level in decoded)


def test_the_stages_follow_one_another_in_one_run():
    detector = small(student_share=0.25)
    optimizer, schedule = detector.optimizer(8)
    rates = []
    for step in range(8):
        rates.append([group["lr"] for group in optimizer.param_groups])
        names = set(detector.losses({"image": toy_images(2)}, step, 8))
        assert names == (
            {"focal", "l1"} if step >= 2 else {"student_fine", "student_middle", "student_coarse"}
        )
        optimizer.step()
        schedule.step()
    assert rates == [[0.4, 0, 0]] * 2 + [[0, 0.1, 0.01]] * 6


def test_the_student_is_frozen_in_the_second_stage():
    detector = small()
    batch, steps = {"image": toy_images(4)}, 10
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
    # Batch norm statistics included.
    assert all(torch.equal(states[2][0][name], last[name]) for name in last)
    assert any(not torch.equal(states[0][0][name], states[2][0][name]) for name in last)
    # The segmentation in turn is frozen in the first stage.
    first = states[0][1]
    assert all(torch.equal(first[name], states[2][1][name]) for name in first)
    assert any(not torch.equal(first[name], states[9][1][name]) for name in first)


def test_the_loss_of_the_student_is_the_sum_over_the_batch():
    detector = small(segmentation=False).eval()

    def total(images: torch.Tensor, monkeypatch) -> float:
        monkeypatch.setattr(destseg, "corrupt", lambda x, *_: (x, torch.zeros_like(x[:, 0])))
        return float(sum(detector.losses({"image": images}, 0, 1).values()))

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        images = toy_images(4)
        # The loss of a batch is the sum over its images.
        alone = sum(total(images[n : n + 1], patch) for n in range(4))
        assert total(images, patch) == pytest.approx(alone, rel=1e-4)


def test_the_segmentations_inputs_are_the_summands_of_the_cosine():
    decoded = tuple(torch.rand(2, c, s, s) for c, s in ((4, 8), (8, 4), (16, 2)))
    target = tuple(torch.rand_like(level) for level in decoded)
    found = products(decoded, target)
    assert found.shape == (2, 28, 8, 8)
    cosine = torch.nn.functional.cosine_similarity(decoded[0], target[0])
    torch.testing.assert_close(-found[:, :4].sum(1), cosine, atol=1e-4, rtol=1e-4)


def test_the_focal_loss_is_its_formula_and_has_finite_gradients():
    truth = torch.tensor([[[True, False]]])
    share = torch.tensor([[[0.9, 0.2]]])
    expected = -((0.1**4) * torch.tensor(0.9).log() + (0.2**4) * torch.tensor(0.8).log()) / 2
    torch.testing.assert_close(focal(torch.logit(share), truth), expected)
    # Saturated logits.
    certain = torch.tensor([[[-80.0, 80.0]]], requires_grad=True)
    focal(certain, truth).backward()
    assert torch.isfinite(certain.grad).all()


def test_without_the_segmentation_the_map_is_the_product_of_the_levels():
    detector = small(segmentation=False).eval()
    assert detector.segmentation is None
    with torch.no_grad():
        scores = detector(toy_images(2))
        assert detector.explain(toy_images(2)) == {}
        whole = small().eval()
        maps = whole.explain(toy_images(2))
        assert set(maps) == {"dest", "segmentation"}
        torch.testing.assert_close(whole(toy_images(2)).maps_BHW, maps["segmentation"])
    assert scores.maps_BHW.shape == (2, 64, 64)
    assert scores.maps_BHW.dtype == torch.float32


def test_it_learns_eight_toy_images():
    detector = small(student_share=0.5, student_rate=0.1, blocks_rate=0.05)
    totals = overfit(detector, {"image": toy_images()}, 100)
    assert sum(totals[45:50]) < 0.5 * sum(totals[:5])
    assert sum(totals[95:]) < 0.7 * sum(totals[50:55])


def test_textures_are_required_for_training_only(tmp_path):
    settings = DestSegSettings(noise="perlin_dtd")
    with pytest.raises(UserError, match="textures"):
        destseg.build(settings, tmp_path / "resnet18.pth")
    # Without weights the detector is filled from a checkpoint.
    assert destseg.build(settings, None).textures_K3SS is None
