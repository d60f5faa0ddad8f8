"""SemRec against a second implementation with the same weights: branches, losses, maps, score."""

import destseg_reference as reference
import pytest
import torch
from reference_tensors import copied
from toy_pairs import toy_images

from detectors.models.semrec import model as semrec
from detectors.models.semrec.model import SemRec, SemRecSettings
from pipeline.models.backbone import Trunk

SIZE, TOP = 64, 6
BRANCHES = {"local": reference.student, "object": reference.unet}


@pytest.fixture
def detector() -> SemRec:
    """A detector of narrow networks."""
    torch.manual_seed(0)
    detector = SemRec(SemRecSettings(size=SIZE), Trunk((8, 16, 32)))
    # As if trained: no batch norm weight of 0, statistics other than 0 and 1. Biases keep features
    # away from 0, where the detector's small constant in the norms counts.
    with torch.no_grad():
        for name, value in detector.named_parameters():
            value += 0.05 * torch.randn_like(value) + 0.3 * name.endswith("bias")
        for name, value in detector.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                value += 0.2 * torch.rand_like(value)
    return detector


def test_both_branches_learn_the_clean_teachers_features(detector, monkeypatch):
    """The local branch from a corrupted image, the object branch from an edited one."""
    original = toy_images(3)
    noisy, edited = original.flip(3), original.clone()
    edited[:, :, 16:40, 8:32] = 0
    mask = (edited != original).any(1).to(torch.uint8)
    monkeypatch.setattr(semrec, "corrupt", lambda *_: (noisy, torch.ones_like(mask).bool()))
    weights = copied(detector.train())
    target = reference.teacher(weights, original)
    expected = {}
    for name, images in (("local", noisy), ("object", edited)):
        decoded = BRANCHES[name](weights, f"branches.{name}", images, training=True)
        for level, map_Bhw in zip(
            ("fine", "middle", "coarse"), reference.distances(decoded, target), strict=True
        ):
            expected[f"{name}_{level}"] = map_Bhw.mean()
    found = detector.losses({"original": original, "edited": edited, "mask": mask}, 0, 10)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    sum(found.values()).backward()
    sum(expected.values()).backward()
    for name, value in detector.named_parameters():
        if name.startswith("teacher"):
            assert value.grad is None
        else:
            near = 1e-3 * float(weights[name].grad.abs().max()) + 1e-6
            torch.testing.assert_close(value.grad, weights[name].grad, rtol=1e-2, atol=near)


@torch.no_grad()
def test_the_map_is_the_sum_of_the_branches_products(detector):
    images = toy_images(3).flip(3)
    weights = copied(detector.eval())
    target = reference.teacher(weights, images)
    maps = {}
    for name, branch in BRANCHES.items():
        decoded = branch(weights, f"branches.{name}", images, training=False)
        maps[name] = reference.product_map(reference.distances(decoded, target), SIZE)
    torch.testing.assert_close(detector.explain(images), maps, rtol=1e-3, atol=1e-4)
    total_BHW, scores = maps["local"] + maps["object"], detector(images)
    torch.testing.assert_close(scores.maps_BHW, total_BHW, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(
        scores.image_B, reference.top_score(total_BHW, TOP), rtol=1e-3, atol=1e-4
    )
