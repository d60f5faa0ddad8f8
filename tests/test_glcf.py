"""GLCF: sizes, who reads what, losses, statistics, smoothing, and the search for weights."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from toy_normals import Toys, onnx_scores, pictures, trained

from detectors.glcf import CleanTargetGlcf, Glcf, build
from detectors.glcf_fusion import candidates, chosen, covariances, scores_of, smoothed, stated
from detectors.glcf_networks import Decoder, PatchEmbedding, SemanticAggregation
from detectors.glcf_settings import GlcfSettings
from detectors.metrics_image import image_metrics
from detectors.pyramids import TrunkPyramid
from pipeline.trunk import Trunk, normalise

SWIN = (96, 192, 384, 768)
SMALL = {
    "size": 64, "teacher": "bundled-teacher", "width": 16, "depth": 1, "encoder_heads": 2,
    "decoder_heads": 2, "blocks": (1, 1),
}  # fmt: skip
LEVELS = ("fine", "middle", "coarse")
TERMS = [f"{part}_{level}" for part in ("correspondence", "local", "global") for level in LEVELS]


def small(seed: int = 0, **changes) -> Glcf:
    torch.manual_seed(seed)
    settings = GlcfSettings(**SMALL | changes)
    pyramid = TrunkPyramid(Trunk((8, 16, 32))).freeze()
    return (CleanTargetGlcf if settings.clean_target else Glcf)(settings, pyramid).eval()


def millions(module: nn.Module) -> float:
    return round(sum(value.numel() for value in module.parameters()) / 1e6, 2)


def odd(count: int, seed: int = 0) -> Tensor:
    """Toy pictures with a bright block where none belongs."""
    images = pictures(count, seed=seed)
    images[:, :, 36:56, 8:28] = 250
    return images


# --- networks -------------------------------------------------------------------------------------


def test_sizes_are_the_published_ones():
    bottleneck = nn.ModuleList(
        [PatchEmbedding(SWIN, 240, 7, (1, 2, 3)), SemanticAggregation(7, 768)]
    )
    assert millions(bottleneck) == 14.03
    assert millions(Decoder(SWIN, 7)) == 14.84
    assert millions(Decoder(SWIN, 7, up="expand")) == 13.1
    whole = build(GlcfSettings(), None)
    assert millions(whole) == 71.89
    assert millions(whole.pyramid) == 13.33


@pytest.mark.parametrize("up", ["dual", "expand"])
def test_decoders_give_the_levels_that_are_compared(up):
    made = Decoder(SWIN, 7, up=up)(torch.zeros(2, 768, 7, 7))
    shapes = [tuple(level.shape[1:]) for level in made]
    assert shapes == [(96, 56, 56), (192, 28, 28), (384, 14, 14)]


def test_a_decoders_blocks_mirror_the_encoders():
    """Shifted windows in turn; DropPath rates as at the same place of a Swin-T."""
    decoder = Decoder(SWIN, 7)
    rates = torch.linspace(0, 0.1, 12).tolist()
    for blocks, expected in ((decoder.coarse, rates[4:10]), (decoder.middle, rates[2:4])):
        assert [block.drop_path1.drop_prob for block in blocks] == pytest.approx(expected)
        assert [block.shift_size[0] for block in blocks] == [0, 3] * (len(expected) // 2)
        assert {block.window_size for block in blocks} == {(7, 7)}
    assert [block.attn.num_heads for block in (decoder.coarse[0], decoder.middle[0])] == [12, 6]


def test_patch_embedding_sums_what_each_level_says():
    torch.manual_seed(0)
    sides = (64, 32, 16, 8)
    levels = tuple(torch.randn(2, c, side, side) for c, side in zip(SWIN, sides, strict=True))
    whole = PatchEmbedding(SWIN, 24, 8, (1, 2, 3))
    parts = []
    for place, level in enumerate((1, 2, 3)):
        part = PatchEmbedding(SWIN, 24, 8, (level,))
        part.embed[0].load_state_dict(whole.embed[place].state_dict())
        parts.append(part(levels) - part.position_TD)
    assert whole(levels).shape == (2, 64, 24)
    torch.testing.assert_close(whole(levels), sum(parts) + whole.position_TD)
    changed = (levels[0] + 1, *levels[1:])
    assert torch.equal(whole(changed), whole(levels))  # the finest level is compared only


@pytest.mark.parametrize(
    ("wiring", "encoder", "decoder"),
    [("pss", 98, 98), ("pgs", 50, 50), ("ps", 98, 49), ("none", 49, 49)],
)
def test_how_many_tokens_each_part_sees(wiring, encoder, decoder):
    network = SemanticAggregation(7, 32, wiring=wiring, width=16, depth=1, encoder_heads=2,
                                  decoder_heads=2)  # fmt: skip
    seen = {}
    for name in ("encoder", "global_decoder", "local_decoder"):
        part = getattr(network, name)
        part.register_forward_hook(lambda _, given, __, name=name: seen.update({name: given[0]}))
    z_global, z_local = network(torch.randn(3, 49, 16))
    counts = {name: given.shape[1] for name, given in seen.items()}
    assert counts == {"encoder": encoder, "global_decoder": decoder, "local_decoder": 49}
    assert z_global.shape == z_local.shape == (3, 49, 32)


@pytest.mark.parametrize("wiring", ["pss", "pgs", "ps", "none"])
def test_semantic_tokens_know_the_picture_through_the_encoder_only(wiring):
    """With an encoder that lets nothing pass from token to token, they know nothing of it."""
    torch.manual_seed(0)
    network = SemanticAggregation(3, 8, wiring=wiring, width=16, depth=1, encoder_heads=2,
                                  decoder_heads=2).eval()  # fmt: skip
    patches = torch.randn(2, 1, 9, 16)
    whole = [network(patches_BTD) for patches_BTD in patches]
    network.encoder = nn.Sequential()
    apart = [network(patches_BTD) for patches_BTD in patches]
    for (one_global, one_local), (other_global, other_local) in (whole, apart):
        assert not torch.allclose(one_local, other_local)
        blind = wiring != "none" and (one_global is apart[0][0])
        assert torch.equal(one_global, other_global) == blind


def test_tokens_for_every_place_start_as_one_for_all():
    shared_one, own = (
        SemanticAggregation(3, 8, width=16, depth=1, encoder_heads=2, decoder_heads=2,
                            per_position=flag)
        for flag in (False, True)
    )  # fmt: skip
    assert shared_one.first_PD.shape == (1, 16)
    assert own.second_PD.shape == (9, 16)
    state = own.state_dict()
    shared_one.load_state_dict({n: v[:1] if n.endswith("_PD") else v for n, v in state.items()})
    patches = torch.randn(2, 9, 16)
    for one, other in zip(shared_one(patches), own(patches), strict=True):
        torch.testing.assert_close(one, other)


# --- training -------------------------------------------------------------------------------------


def test_losses_are_mean_squares_between_the_levels():
    detector, images = small(), pictures(3)
    with torch.no_grad():
        losses = detector.losses({"image": images}, 0, 10)
        f = detector.pyramid(normalise(images))
        z_global, z_local = (
            z.transpose(1, 2).reshape(3, 32, 2, 2)
            for z in detector.aggregation(detector.embedding(f))
        )
        g, local = detector.correspondence(z_global), detector.local(z_local)
        estimate = detector.estimate(z_global)
    assert list(losses) == TERMS
    parts = {"correspondence": (f[:3], g), "local": (f[:3], local), "global": (g, estimate)}
    for name, pair in parts.items():
        for level, one, other in zip(LEVELS, *pair, strict=True):
            expected = ((one - other) ** 2).numpy().mean()
            assert losses[f"{name}_{level}"].item() == pytest.approx(expected, rel=1e-5)


def test_it_overfits_eight_toy_pictures():
    detector = small(learning_rate=2e-3)
    losses = trained(detector, pictures(8), 200, until=0.4)
    assert losses[-1] < 0.5 * losses[0]
    for value in detector.pyramid.parameters():
        assert value.grad is None


def test_every_trained_part_gets_a_gradient_and_the_teacher_none():
    detector = small().train()
    sum(detector.losses({"image": pictures(2)}, 0, 10).values()).backward()
    without = {name for name, value in detector.named_parameters() if value.grad is None}
    assert without == {f"pyramid.{name}" for name, _ in detector.pyramid.named_parameters()}
    held = {id(v) for group in detector.optimizer(10)[0].param_groups for v in group["params"]}
    assert held == {id(v) for v in detector.parameters() if v.grad is not None}


@pytest.mark.parametrize("detached", [True, False])
def test_a_detached_target_is_not_pulled_towards_its_estimate(detached):
    detector = small(detach_global_target=detached).train()
    losses = detector.losses({"image": pictures(2)}, 0, 10)
    sum(value for name, value in losses.items() if name.startswith("global")).backward()
    pulled = [v.grad is not None for v in detector.correspondence.parameters()]
    assert not any(pulled) if detached else all(pulled)
    assert all(value.grad is not None for value in detector.estimate.parameters())


def test_a_clean_target_is_for_the_global_meaning_only():
    plain, detector = small(), small(clean_target=True)
    clean, edited = pictures(3), odd(3)
    batch = {"original": clean, "edited": edited}
    with torch.no_grad():
        losses = detector.losses(batch, 0, 10)
        as_edited = plain.losses({"image": edited}, 0, 10)
        same = detector.losses({"original": edited, "edited": edited}, 0, 10)
        target = detector.pyramid(normalise(clean))[:3]
        made = detector._networks(edited)[1]
    assert {n: v.item() for n, v in same.items()} == {n: v.item() for n, v in as_edited.items()}
    for level, one, other in zip(LEVELS, target, made, strict=True):
        name = f"correspondence_{level}"
        assert losses[name].item() == pytest.approx((one - other).square().mean().item(), rel=1e-5)
        assert losses[name] != as_edited[name]
        for other_name in (f"local_{level}", f"global_{level}"):
            assert losses[other_name] == as_edited[other_name]


def test_a_clean_target_reads_the_versions_samples():
    detector = build(GlcfSettings(**SMALL, clean_target=True, controls=False), None)
    assert detector.view == "sources"
    assert not any(kind.startswith("control") for kind in detector.settings.sources().wanted())
    assert build(GlcfSettings(**SMALL), None).view == "normals"


# --- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [1.0, 2.3, 4.0])
def test_smoothing_is_scipys(sigma):
    maps = np.random.default_rng(0).random((2, 6, 70, 70))
    expected = gaussian_filter(maps, (0, 0, sigma, sigma), mode="mirror")
    np.testing.assert_allclose(smoothed(torch.from_numpy(maps), sigma).numpy(), expected, rtol=1e-9)


def test_statistics_are_means_over_pictures_of_their_own_mean_and_deviation():
    detector, train, held = small(), pictures(7), pictures(5, seed=1)
    with torch.no_grad():
        maps = detector._maps(train).double().numpy()
    detector.calibrate(Toys(train), Toys(held))
    np.testing.assert_allclose(detector.mean_K, maps.mean((2, 3)).mean(0), rtol=1e-5)
    np.testing.assert_allclose(detector.deviation_K, maps.std((2, 3)).mean(0), rtol=1e-5)
    other = small(statistics="validation")
    other.calibrate(Toys(train), Toys(held))
    again = small()
    again.calibrate(Toys(held), Toys(train))
    assert torch.equal(other.deviation_K, again.deviation_K)
    assert not torch.equal(other.deviation_K, detector.deviation_K)


@torch.no_grad()
def test_the_map_is_the_weighted_sum_and_the_score_its_deviation():
    detector, images = small(), odd(3)
    detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    scores, parts = detector(images), detector.explain(images)
    assert list(parts) == ["local", "global"]
    torch.testing.assert_close(parts["local"] + parts["global"], scores.maps_BHW)
    maps = detector._maps(images).double().numpy()
    mean, deviation = (of.numpy()[:, None, None] for of in (detector.mean_K, detector.deviation_K))
    scaled = (maps - mean) / deviation
    weight_K = [5 / 6 * s / 10 for s in (1, 3, 6)] + [1 / 6 * s / 10 for s in (1, 3, 6)]
    fused = np.einsum("k,bkhw->bhw", weight_K, scaled)
    np.testing.assert_allclose(scores.maps_BHW, fused, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scores.image_B, fused.std((1, 2)), rtol=1e-4)


@torch.no_grad()
def test_a_constant_added_to_the_map_leaves_the_score_alone():
    detector, images = small(), pictures(3)
    detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    before = detector(images)
    detector.mean_K += detector.deviation_K * torch.arange(6)
    after = detector(images)
    assert ((before.maps_BHW - after.maps_BHW).flatten(1).std(1) < 1e-4).all()
    assert (before.maps_BHW - after.maps_BHW).abs().mean() > 0.5
    torch.testing.assert_close(before.image_B, after.image_B, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weights_pick_branches_and_scales():
    images = odd(2)
    for changes, silent in (({"branch_weights": (1, 0)}, "global"),
                            ({"branch_weights": (0, 1)}, "local")):  # fmt: skip
        assert small(**changes).explain(images)[silent].abs().max() == 0
    coarse = small(scale_weights=(0, 0, 1), branch_weights=(1, 0))
    torch.testing.assert_close(coarse(images).maps_BHW, coarse._maps(images)[:, 2])


@torch.no_grad()
def test_the_global_branch_may_compare_the_levels_themselves():
    images = odd(2)
    apart = small(global_map="correspondence")
    f, g, local, _ = apart._networks(images)
    swapped = small()
    swapped._networks = lambda _: (f, f, local, g)  # an estimate of F that is G
    torch.testing.assert_close(apart._maps(images), swapped._maps(images))


# --- the search for weights -----------------------------------------------------------------------


@torch.no_grad()
def test_scores_by_covariance_are_the_scores():
    detector, images = small(), torch.cat([pictures(3), odd(3)])
    detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    covariance_NKK = covariances(detector._normalised(images))
    for weight_K in candidates(2, 3)[::7]:
        detector.weight_K.copy_(torch.from_numpy(weight_K))
        expected = detector(images).image_B
        np.testing.assert_allclose(scores_of(weight_K, covariance_NKK), expected, rtol=1e-4)


def test_candidates_are_all_quarters():
    found = {tuple(weight_K.round(6)) for weight_K in candidates(2, 3)}
    assert len(candidates(2, 3)) == 5 * 15
    assert all(sum(weight_K) == pytest.approx(1) for weight_K in found)
    assert (0, 0.5, 0.5, 0, 0, 0) in found


def test_the_best_weights_are_found_and_ties_go_to_the_first():
    rng = np.random.default_rng(0)
    labels_N = np.repeat([0, 1], 20)
    covariance_NKK = np.zeros((40, 2, 2))
    covariance_NKK[:, 0, 0] = rng.random(40)
    covariance_NKK[:, 1, 1] = labels_N + rng.random(40)
    weights = [np.array([1.0, 0]), np.array([0, 1.0]), np.array([0, 2.0])]
    assert chosen(weights, covariance_NKK, labels_N) is weights[1]


@torch.no_grad()
def test_calibrated_weights_rank_the_synthetics_at_least_as_well_as_the_stated():
    normals, edited = pictures(10, seed=2), torch.cat([pictures(5, seed=3, dot=False), odd(5)])
    label = torch.tensor([1] * 5 + [0] * 5)  # a missing dot counts, a bright block does not
    pairs = [{"edited": edited, "label": label}]
    labels = np.concatenate([np.zeros(10, int), label.numpy()])
    plain, tuned = small(), small(weights="calibrated")
    reached = []
    for detector in (plain, tuned):
        detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
        detector.tune(Toys(normals), pairs)
        scores = detector(torch.cat([normals, edited])).image_B.double().numpy()
        reached.append(image_metrics(labels, scores).image_auroc)
    np.testing.assert_allclose(plain.weight_K, stated((5, 1), (1, 3, 6)), rtol=1e-6)
    assert not torch.equal(tuned.weight_K, plain.weight_K)
    assert reached[1] > reached[0]
    best = tuned.weight_K.clone()
    tuned.tune(Toys(normals), [])  # nothing to tell apart: as it was
    assert torch.equal(tuned.weight_K, best)
    tuned.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    assert torch.equal(tuned.weight_K, plain.weight_K)


# --- settings, precision, export ------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"branch_weights": (0, 0)},
        {"scale_weights": (1, -1, 1)},
        {"encoder_heads": 5},
        {"embedded": ()},
    ],
)
def test_what_cannot_be_is_refused(changes):
    with pytest.raises(ValidationError):
        GlcfSettings(**SMALL | changes)


def test_standardised_levels_are_measured_before_training():
    detector = small(standardise=True)
    detector.prepare(Toys(pictures(6)))
    f0 = detector._levels(pictures(6))[0]
    assert f0.mean((0, 2, 3)).abs().max() < 1e-3
    assert trained(detector, pictures(6), 3)
    assert all(value.grad is None for value in detector.pyramid.parameters())


@torch.no_grad()
def test_training_takes_bfloat16_and_scoring_does_not():
    detector, images = small(), odd(4)
    detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    exact, losses = detector(images), detector.losses({"image": images}, 0, 10)
    with torch.autocast("cpu", torch.bfloat16):
        scores, rough = detector(images), detector.losses({"image": images}, 0, 10)
    assert torch.equal(scores.image_B, exact.image_B)
    assert torch.equal(scores.maps_BHW, exact.maps_BHW)
    for name, value in rough.items():
        assert value.dtype == torch.float32
        assert value != losses[name]
        assert value.item() == pytest.approx(losses[name].item(), rel=0.05)


@pytest.mark.parametrize(
    "teacher", ["bundled-teacher", pytest.param("swin-tiny", marks=pytest.mark.slow)]
)
def test_onnx_gives_the_same_scores_at_any_batch_size(teacher):
    torch.manual_seed(0)
    detector = build(GlcfSettings(**SMALL | {"teacher": teacher}), None).eval()
    images = odd(3)
    with torch.no_grad():
        detector.calibrate(Toys(pictures(4)), Toys(pictures(2)))
        scores = detector(images)
    image_B, maps_BHW = onnx_scores(detector, images)
    np.testing.assert_allclose(image_B, scores.image_B, rtol=1e-3)
    np.testing.assert_allclose(maps_BHW, scores.maps_BHW, rtol=1e-2, atol=1e-2)
