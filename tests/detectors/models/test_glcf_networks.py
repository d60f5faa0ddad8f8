"""GLCF's networks: published sizes, and which tokens attend to which."""

import pytest
import torch
from small_glcf import SWIN, millions
from torch import nn

from detectors.models.glcf.model import build
from detectors.models.glcf.networks import Decoder, PatchEmbedding, SemanticAggregation
from detectors.models.glcf.settings import GlcfSettings


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
    decoded = Decoder(SWIN, 7, up=up)(torch.zeros(2, 768, 7, 7))
    shapes = [tuple(level.shape[1:]) for level in decoded]
    assert shapes == [(96, 56, 56), (192, 28, 28), (384, 14, 14)]


def test_a_decoders_blocks_mirror_the_encoders():
    """Windows are shifted in every other block; DropPath rates as at the same place of a Swin-T."""
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
    # The finest level is compared, but not embedded.
    changed = (levels[0] + 1, *levels[1:])
    assert torch.equal(whole(changed), whole(levels))


@pytest.mark.parametrize(
    ("wiring", "encoder", "decoder"),
    [("pss", 98, 98), ("pgs", 50, 50), ("ps", 98, 49), ("none", 49, 49)],
)
def test_every_part_sees_the_right_number_of_tokens(wiring, encoder, decoder):
    network = SemanticAggregation(7, 32, wiring=wiring, width=16, depth=1, encoder_heads=2,
                                  decoder_heads=2)  # fmt: skip
    inputs = {}
    for name in ("encoder", "global_decoder", "local_decoder"):
        part = getattr(network, name)
        part.register_forward_hook(lambda _, given, __, name=name: inputs.update({name: given[0]}))
    z_global, z_local = network(torch.randn(3, 49, 16))
    counts = {name: given.shape[1] for name, given in inputs.items()}
    assert counts == {"encoder": encoder, "global_decoder": decoder, "local_decoder": 49}
    assert z_global.shape == z_local.shape == (3, 49, 32)


@pytest.mark.parametrize("wiring", ["pss", "pgs", "ps", "none"])
def test_semantic_tokens_see_the_image_through_the_encoder_only(wiring):
    """With an encoder that passes nothing between tokens, they do not depend on the image."""
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


def test_tokens_per_position_start_equal_to_a_shared_one():
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


def test_linear_layers_start_as_in_the_released_code():
    """Xavier in the bottleneck, a truncated normal in the decoders, biases at 0."""
    torch.manual_seed(0)
    embedding = PatchEmbedding(SWIN, 240, 7, (1, 2, 3))
    aggregation = SemanticAggregation(7, 768, depth=1)
    decoder = Decoder(SWIN, 7, up="expand")
    # The patch of level 1 has 192 * 4 * 4 inputs; Xavier's uniform has this deviation.
    weight = embedding.embed[0].weight
    assert weight.std().item() == pytest.approx((2 / (240 + 192 * 16)) ** 0.5, rel=0.02)
    qkv = aggregation.encoder[0].attn.qkv
    assert qkv.weight.std().item() == pytest.approx((2 / (240 + 720)) ** 0.5, rel=0.02)
    fc = decoder.coarse[0].mlp.fc1
    for of_decoder in (fc.weight, decoder.up_coarse.expand.weight):
        assert of_decoder.std().item() == pytest.approx(0.02, rel=0.02)
    for layer in (qkv, fc, aggregation.bridge, aggregation.out):
        assert layer.bias.abs().max() == 0
