"""DeSTSeg against a second implementation with the same weights: both stages, maps, scores."""

import destseg_reference as reference
import pytest
import torch
from reference_tensors import copied
from toy_pairs import toy_images

from detectors.models.destseg import model as destseg
from detectors.models.destseg.model import DestSeg, DestSegSettings
from pipeline.models.backbone import Trunk

SIZE, TOP = 64, 6


def made(**changes: object) -> DestSeg:
    """A detector of narrow networks."""
    torch.manual_seed(0)
    detector = DestSeg(DestSegSettings(size=SIZE, **changes), Trunk((8, 16, 32)))
    # As if trained: no batch norm weight of 0, statistics other than 0 and 1. Biases keep features
    # away from 0, where the detector's small constant in the norms counts.
    with torch.no_grad():
        for name, value in detector.named_parameters():
            value += 0.05 * torch.randn_like(value) + 0.3 * name.endswith("bias")
        for name, value in detector.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value += 0.2 * torch.rand_like(value)
    return detector


@pytest.fixture
def spots(monkeypatch: pytest.MonkeyPatch):
    """Stands for the random corruption: (images, corrupted, mask) with two odd-sized spots."""
    images = toy_images(3)
    corrupted, mask = images.clone(), torch.zeros(3, SIZE, SIZE, dtype=torch.bool)
    mask[:, 5:22, 9:27] = True
    mask[1, 40:43, 30:61] = True
    corrupted.permute(0, 2, 3, 1)[mask] = torch.tensor([250, 10, 90], dtype=torch.uint8)
    monkeypatch.setattr(destseg, "corrupt", lambda *_: (corrupted, mask))
    return images, corrupted, mask


def same_gradients(detector: DestSeg, weights: dict, part: str) -> None:
    """The part's gradients are those of the copy; other parts have none."""
    for name, value in detector.named_parameters():
        if name.startswith(part):
            expected = weights[name].grad
            near = 1e-3 * float(expected.abs().max()) + 1e-6
            torch.testing.assert_close(value.grad, expected, rtol=1e-2, atol=near)
        else:
            assert value.grad is None


def test_the_student_learns_the_clean_teachers_features_from_the_corrupted_image(spots):
    images, corrupted, _ = spots
    detector = made().train()
    weights = copied(detector)
    decoded = reference.student(weights, "student", corrupted, training=True)
    # Summed over images, averaged over cells.
    expected = sum(
        map_Bhw.sum() / map_Bhw[0].numel()
        for map_Bhw in reference.distances(decoded, reference.teacher(weights, images))
    )
    found = sum(detector.losses({"image": images}, 0, 10).values())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    found.backward()
    expected.backward()
    same_gradients(detector, weights, "student")


def test_the_segmentation_learns_the_mask_from_both_networks_on_the_corrupted_image(spots):
    images, corrupted, mask = spots
    detector = made().train()
    weights = copied(detector)
    with torch.no_grad():
        decoded = reference.student(weights, "student", corrupted, training=False)
    target = reference.teacher(weights, corrupted)
    share_Bhw = reference.segmented(weights, decoded, target, training=True)
    focal, l1 = reference.segmentation_losses(share_Bhw, mask)
    found = detector.losses({"image": images}, 9, 10)
    expected = {"focal": focal.float(), "l1": l1.float()}
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    sum(found.values()).backward()
    (focal + l1).backward()
    same_gradients(detector, weights, "segmentation")


@torch.no_grad()
def test_maps_and_scores_are_those_of_the_public_code():
    detector, images = made().eval(), toy_images(3).flip(3)
    weights = copied(detector)
    decoded = reference.student(weights, "student", images, training=False)
    target = reference.teacher(weights, images)
    dest_BHW = reference.product_map(reference.distances(decoded, target), SIZE)
    share_Bhw = reference.segmented(weights, decoded, target, training=False).float()
    whole_BHW = reference.product_map([share_Bhw], SIZE)
    torch.testing.assert_close(
        detector.explain(images), {"dest": dest_BHW, "segmentation": whole_BHW},
        rtol=1e-3, atol=1e-4,
    )  # fmt: skip
    torch.testing.assert_close(detector(images).image_B, reference.top_score(whole_BHW, TOP))
    # Without the segmentation (DeST).
    plain = made(segmentation=False).eval()
    plain.load_state_dict(
        {name: value for name, value in weights.items() if not name.startswith("segmentation")}
    )
    found = plain(images)
    torch.testing.assert_close(found.maps_BHW, dest_BHW, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        found.image_B, reference.top_score(dest_BHW, TOP), rtol=1e-3, atol=1e-4
    )


def test_the_encoder_begins_as_its_shortcuts_and_the_rest_does_not():
    """The public code takes the encoder from timm, which sets these weights to 0."""
    detector = DestSeg(DestSegSettings(size=SIZE), Trunk((8, 16, 32)))
    last = {
        name: value for name, value in detector.named_parameters() if name.endswith("bn2.weight")
    }
    encoder = ("student.trunk.", "student.decoder.layer4.")
    zero = {name for name, value in last.items() if not value.any()}
    assert zero == {name for name in last if name.startswith(encoder)}
    assert len(zero) == 8
    assert all((value == 1).all() for name, value in last.items() if name not in zero)


def test_rotations_turn_the_clean_image_before_it_is_corrupted(monkeypatch):
    seen = []
    monkeypatch.setattr(
        destseg, "corrupt", lambda images, *_: (seen.append(images), (images, images[:, 0] > 0))[1]
    )
    images = toy_images(2)
    for rotations, mode in (("full", True), ("full", False), ("none", True)):
        torch.manual_seed(1)
        made(rotations=rotations).train(mode).losses({"image": images}, 0, 10)
    assert not torch.equal(seen[0], images)
    # Neither at validation nor without the setting.
    assert torch.equal(seen[1], images)
    assert torch.equal(seen[2], images)
