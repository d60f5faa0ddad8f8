"""SemRec: parameter counts, inputs of the branches, frozen parts, losses by hand, export."""

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from toy_pairs import overfit, parameter_count, toy_images

from detectors.base import Scores
from detectors.models.semrec import model as semrec
from detectors.models.semrec.model import SemRec, SemRecSettings
from detectors.networks.cosine import cosine_distance
from detectors.networks.denoising_student import upsample_2x
from detectors.networks.remembered import Remembered
from detectors.networks.unet import UNet
from pipeline.models.backbone import Trunk, normalise

CHANNELS_LAST = torch.channels_last


def small(**changes) -> SemRec:
    torch.manual_seed(0)
    settings = SemRecSettings(size=64, teacher="bundled-teacher", **changes)
    return SemRec(settings, Trunk((8, 16, 32)))


def batch_of(original: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pairs whose edit is a black square."""
    edited, mask = original.clone(), torch.zeros_like(original[:, 0])
    edited[:, :, 16:40, 8:32] = 0
    mask[:, 16:40, 8:32] = 1
    return {"original": original, "edited": edited, "mask": mask}


def test_the_object_branch_has_the_stated_size():
    assert parameter_count(UNet()) == 13_307_360
    assert parameter_count(UNet(skips="deep")) == 13_307_360 - 128 * 64 * 9
    assert (
        parameter_count(UNet(skips="none")) == 13_307_360 - (512 * 256 + 256 * 128 + 128 * 64) * 9
    )
    # Without the first block (two convolutions, two norms); the second sees twelve channels of 32.
    first = 3 * 32 * 9 + 32 * 32 * 9 + 2 * 2 * 32
    assert parameter_count(UNet(stride=2)) == 13_307_360 - first - (32 - 12) * 64 * 9
    whole = semrec.build(SemRecSettings(), None)
    assert parameter_count(whole) == 24_665_024 + 13_307_360 + 2_782_784


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("skips", ["all", "deep", "none"])
def test_skips_decide_what_reaches_the_fine_level(skips, stride):
    """Without skips the finest level depends on the image through the bottleneck only."""
    torch.manual_seed(0)
    network = UNet(4, (8, 16, 32), skips, stride=stride).eval()
    # Block the bottleneck: what still reaches the output came through skips.
    network.encoders[-1].register_forward_hook(lambda *_: torch.zeros_like(_[2]))
    with torch.no_grad():
        finest = [network(torch.rand(1, 3, 64, 64))[0] for _ in range(2)]
    assert torch.equal(*finest) == (skips == "none")


def test_upsampling_is_given_contiguous_gradients(monkeypatch):
    """Those of the inputs of a concatenation are strided slices, which it is slow with."""
    torch.manual_seed(0)
    network, images = UNet(4, (8, 16, 32)), torch.rand(2, 3, 64, 64)
    seen = []

    def watched(features):
        larger = upsample_2x(features)
        dense = larger.view_as(larger)
        larger.register_hook(lambda g: seen.append(g.is_contiguous(memory_format=CHANNELS_LAST)))
        return dense

    monkeypatch.setattr("detectors.networks.unet.upsample_2x", watched)
    sum(level.square().sum() for level in network(images)).backward()
    assert seen == [True] * 3


def test_a_stride_of_two_leaves_out_no_pixel_and_keeps_the_strides():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 64, 96, requires_grad=True)
    levels = UNet(4, (8, 16, 32), stride=2).eval()(images)
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 16, 24), (16, 8, 12), (32, 4, 6)]
    # The finest level alone: every value of every channel counts.
    levels[0].square().sum().backward()
    assert images.grad.abs().min() > 0


def test_the_loss_is_the_mean_cosine_distance_to_the_clean_teacher(monkeypatch):
    noisy = toy_images(3).flip(3)
    monkeypatch.setattr(semrec, "corrupt", lambda x, *_: (noisy, torch.ones_like(x[:, 0]).bool()))
    detector, batch = small().eval(), batch_of(toy_images(3))
    with torch.no_grad():
        losses = detector.losses(batch, 0, 10)
        target = detector.teacher(normalise(batch["original"]))
        for name, images in (("local", noisy), ("object", batch["edited"])):
            decoded = detector.branches[name](normalise(images))
            for level, one, other in zip(semrec.LEVELS, decoded, target, strict=True):
                # Cosine distances in NumPy, without the epsilon.
                u, v = one.double().numpy(), other.double().numpy()
                norms = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
                cells = 1 - (u * v).sum(1) / np.maximum(norms, 1e-9)
                assert losses[f"{name}_{level}"].item() == pytest.approx(cells.mean(), abs=2e-3)
    assert len(losses) == 6


def test_with_shared_inputs_both_branches_see_the_same_corrupted_edit(monkeypatch):
    corrupted = []

    def corrupt(images, *_):
        corrupted.append(images)
        return images // 2, torch.zeros_like(images[:, 0]).bool()

    monkeypatch.setattr(semrec, "corrupt", corrupt)
    batch = batch_of(toy_images(2))
    detector = small(inputs="shared").eval()
    inputs = []
    for branch in detector.branches.values():
        branch.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    detector.losses(batch, 0, 10)
    assert torch.equal(corrupted[0], batch["edited"])
    assert torch.equal(inputs[0], inputs[1])
    assert torch.equal(inputs[0], normalise(batch["edited"] // 2))


def test_the_mask_weight_weighs_edited_cells():
    batch = batch_of(toy_images(2))
    plain, heavy = small(branches="object").eval(), small(branches="object", mask_weight=5).eval()
    with torch.no_grad():
        target = plain.teacher(normalise(batch["original"]))[0]
        decoded = plain.branches["object"](normalise(batch["edited"]))[0]
        cells = cosine_distance(decoded, target)
        weight = 1 + 4 * torch.nn.functional.avg_pool2d(batch["mask"].float(), 4)
        expected = (cells * weight).sum() / weight.sum()
        found = heavy.losses(batch, 0, 1)["object_fine"]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(plain.losses(batch, 0, 1)["object_fine"], cells.mean())


@pytest.mark.parametrize("branches", ["local", "object"])
def test_one_branch_alone_is_an_ablation(branches):
    detector = small(branches=branches).eval()
    assert list(detector.branches) == [branches]
    with torch.no_grad():
        names = detector.losses(batch_of(toy_images(2)), 0, 1)
        assert {name.split("_")[0] for name in names} == {branches}
        assert detector.explain(toy_images(2)) == {}
        assert detector(toy_images(2)).maps_BHW.shape == (2, 64, 64)


def test_the_teacher_never_moves():
    detector = small()
    before = copy.deepcopy(detector.teacher.state_dict())
    overfit(detector.train(), batch_of(toy_images(4)), 3)
    assert detector.branches["local"].training
    assert not any(module.training for module in detector.teacher.modules())
    after = detector.teacher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in detector.teacher.parameters())
    with torch.no_grad():
        images = normalise(toy_images(2))
        one = detector.train().teacher(images)
        other = detector.eval().teacher(images)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("standardise", [True, False])
def test_targets_are_computed_once_for_all_steps_and_fits(standardise, monkeypatch):
    fitted, images = small(standardise=standardise, branches="object"), toy_images(4)
    part = copy.deepcopy(fitted)
    trunks = [getattr(one.teacher, "trunk", one.teacher) for one in (fitted, part)]
    passes = []
    for trunk in trunks:
        trunk.register_forward_hook(lambda network, *_: passes.append(network))
    fitted.prepare([{"image": images}])
    part.inherit(fitted)
    part.prepare([{"image": images[:3]}])
    # Also for the statistics of its channels.
    assert passes == [trunks[0]]
    with torch.no_grad():
        computed = part.teacher(normalise(images[[2, 0]]))
        monkeypatch.setattr(trunks[1], "forward", None)
        for one, other in zip(part._target(images[[2, 0]]), computed, strict=True):
            assert torch.equal(one, other)
    assert not any("targets" in name for name in part.state_dict())


def test_what_the_memory_does_not_hold_is_computed(monkeypatch):
    detector, images = small(), toy_images(4)
    monkeypatch.setattr(detector, "targets", Remembered(most=0))
    detector.prepare([{"image": images}])
    assert not detector.targets.known
    with torch.no_grad():
        expected = detector.teacher(normalise(images))
    for one, other in zip(detector._target(images), expected, strict=True):
        assert torch.equal(one, other)


def test_rotations_turn_original_and_edit_alike(monkeypatch):
    detector, batch = small(rotations="full", branches="object"), batch_of(toy_images(4))
    turned = []
    monkeypatch.setattr(
        semrec, "rotated", lambda how, *tensors: turned.append((how, tensors)) or tensors
    )
    detector.train().losses(batch, 0, 10)
    (how, tensors), names = turned[0], ("original", "edited", "mask")
    assert how == "full"
    for tensor, name in zip(tensors, names, strict=True):
        assert torch.equal(tensor, batch[name])
    # Validation losses are on images as they are.
    detector.eval().losses(batch, 0, 10)
    assert len(turned) == 1


def test_a_teacher_with_negative_features_gets_branches_that_reach_them():
    torch.manual_seed(0)
    detector = semrec.build(SemRecSettings(size=64, teacher="efficientnet-lite0"), None).eval()
    images = normalise(toy_images(2))
    with torch.no_grad():
        for branch in detector.branches.values():
            decoded = branch(images)
            target = detector.teacher(images)
            assert [a.shape for a in decoded] == [b.shape for b in target]
            assert all((level < 0).any() for level in decoded)


def test_the_map_is_the_sum_of_its_explanation():
    detector = small().eval()
    with torch.no_grad():
        scores, maps = detector(toy_images(2)), detector.explain(toy_images(2))
    assert set(maps) == {"local", "object"}
    torch.testing.assert_close(scores.maps_BHW, maps["local"] + maps["object"])
    # 100 pixels at 256 px are 6 at 64 px.
    top = scores.maps_BHW.flatten(1).topk(6).values.mean(1)
    torch.testing.assert_close(scores.image_B, top)


def test_quantiles_bring_branches_to_one_scale():
    detector = small(branch_norm="val_quantile").eval()
    normals = [{"image": toy_images(4)}, {"image": toy_images(3).flip(2)}]
    detector.calibrate(normals, normals)
    with torch.no_grad():
        maps = [detector.explain(batch["image"]) for batch in normals]
    for name in ("local", "object"):
        values = torch.cat([of[name].flatten() for of in maps]).numpy()
        assert np.quantile(values, 0.9) == pytest.approx(0, abs=1e-3)
        assert np.quantile(values, 0.995) == pytest.approx(0.1, abs=1e-3)
    assert "ranges_22" in detector.state_dict()


def test_it_learns_eight_toy_images():
    totals = overfit(small(learning_rate=3e-3), batch_of(toy_images()), 40)
    assert sum(totals[-5:]) < 0.5 * sum(totals[:5])


@pytest.mark.filterwarnings("ignore")
def test_the_exported_network_scores_as_the_detector_does(tmp_path: Path):
    detector, images = small().eval(), toy_images(3)
    path = tmp_path / "semrec.onnx"
    axes = {name: {0: "batch"} for name in ("images", "scores", "maps")}
    torch.onnx.export(
        detector, (images[:2],), str(path), input_names=["images"],
        output_names=["scores", "maps"], dynamic_axes=axes, dynamo=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scores_B, maps_BHW = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        expected: Scores = detector(images)
    np.testing.assert_allclose(scores_B, expected.image_B, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(maps_BHW, expected.maps_BHW, rtol=1e-3, atol=1e-5)
