"""The trained parts of GLCF: patch embedding, semantic aggregation, and the decoders.

Yao et al., arXiv 2303.05768. The levels of a pyramid are embedded on one grid of tokens, a
bottleneck separates the semantics of the whole image (z_global) from the appearance of each place
(z_local), and decoders expand both into levels again. Details that the paper leaves open follow its
released code of June 2023.

Shapes: B batch; g the token grid's side (7 at 224 px), T = g * g tokens; D token width (240); C
channels of a level; h, w its cells.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.networks.pyramids import Channels

Aggregation = Literal["pss", "pgs", "ps", "none"]
UpSampling = Literal["dual", "expand"]
# Levels of stride 4, 8 and 16.
Decoded = tuple[Tensor, Tensor, Tensor]


class PatchEmbedding(nn.Module):
    """MS-PEM: levels of stride 8, 16 and 32, embedded on one grid of stride 32 and summed.

    Kernels of 4, 2 and 1 cells, plus a fixed position encoding. `scales` selects levels out of
    1, 2, 3, for an ablation.
    """

    def __init__(self, channels: Channels, width: int, grid: int, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales = scales
        kernels = [
            # Kernel equals stride, so patches do not overlap.
            nn.Conv2d(channels[level], width, 2 ** (3 - level), stride=2 ** (3 - level))
            for level in scales
        ]
        for kernel in kernels:
            # Initialised as what it is, a linear layer over a patch.
            nn.init.xavier_uniform_(kernel.weight.view(width, -1))
        self.embed = nn.ModuleList(kernels)
        self.register_buffer("position_TD", _positions(grid, width), persistent=False)
        self.position_TD: Tensor

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Tokens (B, T, D) of the four levels."""
        tokens_BDgg = sum(
            embed(levels[level]) for embed, level in zip(self.embed, self.scales, strict=True)
        )
        assert isinstance(tokens_BDgg, Tensor)
        return tokens_BDgg.flatten(2).transpose(1, 2) + self.position_TD


class SemanticAggregation(nn.Module):
    """SAM: a transformer in which learnable semantic tokens collect the image's global semantics.

    (Semantic aggregation module; unrelated to Segment Anything.)

    | wiring | encoder sees | global decoder sees |
    |---|---|---|
    | `ps` | patches and T semantic tokens | the semantic tokens |
    | `pgs` | patches and one semantic token | it and T fresh semantic tokens |
    | `pss` | patches and T semantic tokens | them and T fresh ones (the paper's best) |
    | `none` | patches | the patches; an ablation |

    A set of semantic tokens is one learnable vector at every position, or one per position with
    `per_position`; all start at zero. `forward(patches_BTD)` returns (z_global, z_local), each
    (B, T, channels).
    """

    def __init__(
        self,
        grid: int,
        channels: int,
        *,
        wiring: Aggregation = "pss",
        width: int = 240,
        depth: int = 6,
        encoder_heads: int = 12,
        decoder_heads: int = 16,
        per_position: bool = False,
    ) -> None:
        super().__init__()
        self.wiring = wiring
        self.tokens = grid * grid
        places = self.tokens if per_position else 1
        self.register_buffer("position_TD", _positions(grid, width), persistent=False)
        self.position_TD: Tensor
        # Semantic tokens of the encoder and of the global decoder.
        if wiring in ("ps", "pss"):
            self.first_PD = nn.Parameter(torch.zeros(places, width))
        if wiring == "pgs":
            # A single global token.
            self.first_PD = nn.Parameter(torch.zeros(1, width))
        if wiring in ("pgs", "pss"):
            self.second_PD = nn.Parameter(torch.zeros(places, width))
        self.encoder = _blocks(depth, width, encoder_heads)
        self.encoder_norm = nn.LayerNorm(width)
        # A linear layer connects the encoder and both decoders.
        self.bridge = nn.Linear(width, width)
        self.global_decoder = _blocks(depth, width, decoder_heads)
        self.local_decoder = _blocks(depth, width, decoder_heads)
        # Shared by both decoders. The first released code used the encoder's norm here, too; a
        # later version corrects that.
        self.decoder_norm = nn.LayerNorm(width)
        # Shared as well: only then are there the published 14.03 M parameters.
        self.out = nn.Linear(width, channels)
        self.apply(_xavier)

    def forward(self, patches_BTD: Tensor) -> tuple[Tensor, Tensor]:
        tokens = [patches_BTD]
        if self.wiring in ("ps", "pss"):
            tokens.append(self._semantic(self.first_PD, patches_BTD))
        elif self.wiring == "pgs":
            # A single global token has no position.
            tokens.append(self.first_PD.expand(patches_BTD.shape[0], 1, -1))
        encoded_BND = self.bridge(self.encoder_norm(self.encoder(torch.cat(tokens, 1))))
        # Patch tokens come first, semantic tokens after them.
        local_BTD, gathered_BND = encoded_BND[:, : self.tokens], encoded_BND[:, self.tokens :]
        if self.wiring == "none":
            whole_BND = local_BTD
        elif self.wiring == "ps":
            whole_BND = gathered_BND
        else:
            whole_BND = torch.cat([gathered_BND, self._semantic(self.second_PD, patches_BTD)], 1)
        # Of the global decoder's tokens, the last T form the output.
        whole_BTD = self.global_decoder(whole_BND)[:, -self.tokens :]
        z_global = self.out(self.decoder_norm(whole_BTD))
        return z_global, self.out(self.decoder_norm(self.local_decoder(local_BTD)))

    def _semantic(self, tokens_PD: Tensor, like_BTD: Tensor) -> Tensor:
        """Semantic tokens (B, T, D) with positions, for the batch of `like_BTD`."""
        return (tokens_PD + self.position_TD).expand(like_BTD.shape[0], -1, -1)


class Decoder(nn.Module):
    """From (B, C, g, g) to levels of stride 16, 8 and 4, each taken right after up-sampling.

    This mirrors the pyramid, whose levels are taken right after merging. `channels` are those of
    the pyramid, `blocks` the numbers of Swin blocks at stride 16 and 8; the defaults are Swin-T's.
    """

    def __init__(
        self,
        channels: Channels,
        grid: int,
        *,
        up: UpSampling = "dual",
        blocks: tuple[int, int] = (6, 2),
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        fine, middle, coarse, deep = channels
        at_16, at_8 = blocks
        # DropPath rates rise over depth as in a Swin encoder, which has two more blocks at either
        # end.
        rates = torch.linspace(0, drop_path, 2 + at_8 + at_16 + 2).tolist()
        # The paper names the up-sampling of SUNet; the released code uses that of Swin-Unet.
        make = DualUpSample if up == "dual" else PatchExpand
        self.up_coarse = make(deep, coarse)
        self.coarse = _windows(coarse, 2 * grid, grid, rates[2 + at_8 : -2])
        self.up_middle = make(coarse, middle)
        self.middle = _windows(middle, 4 * grid, grid, rates[2 : 2 + at_8])
        self.up_fine = make(middle, fine)
        # The released code runs two more blocks at stride 4 and discards their output.
        self.apply(_truncated)

    def forward(self, deep_BChw: Tensor) -> Decoded:
        """Levels from fine to coarse."""
        coarse_BChw = self.up_coarse(deep_BChw)
        middle_BChw = self.up_middle(_in_windows(self.coarse, coarse_BChw))
        fine_BChw = self.up_fine(_in_windows(self.middle, middle_BChw))
        return fine_BChw, middle_BChw, coarse_BChw


class DualUpSample(nn.Module):
    """Doubles the side in two ways, by pixel shuffle and bilinear, and merges them (SUNet)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shuffled = nn.Sequential(
            # Pixel shuffle turns four channels into 2 x 2 cells.
            nn.Conv2d(inputs, 4 * outputs, 1, bias=False), nn.PReLU(), nn.PixelShuffle(2),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )  # fmt: skip
        self.smooth = nn.Sequential(
            nn.Conv2d(inputs, inputs, 1), nn.PReLU(),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )  # fmt: skip
        self.merge = nn.Conv2d(2 * outputs, outputs, 1, bias=False)

    def forward(self, cells_BChw: Tensor) -> Tensor:
        return self.merge(torch.cat([self.shuffled(cells_BChw), self.smooth(cells_BChw)], 1))


class PatchExpand(nn.Module):
    """Doubles the side by a linear layer and pixel shuffle, then a layer norm (Swin-Unet)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # A 1 x 1 convolution is the linear layer of Swin-Unet, in channels-first form.
        self.expand = nn.Conv2d(inputs, 4 * outputs, 1, bias=False)
        # Initialised like the linear layers of the decoder.
        nn.init.trunc_normal_(self.expand.weight, std=0.02)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, cells_BChw: Tensor) -> Tensor:
        grown_BChw = F.pixel_shuffle(self.expand(cells_BChw), 2)
        return self.norm(grown_BChw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def as_cells(tokens_BTC: Tensor, grid: int) -> Tensor:
    """(B, T, C) tokens as (B, C, g, g) cells."""
    return tokens_BTC.transpose(1, 2).unflatten(2, (grid, grid))


def _positions(grid: int, width: int) -> Tensor:
    """Fixed position encoding (g * g, D): sines and cosines of row and column."""
    # timm and the torchvision that it imports take three seconds, of every command that knows the
    # detectors.
    from timm.layers import build_sincos2d_pos_embed

    return build_sincos2d_pos_embed([grid, grid], dim=width)


def _blocks(depth: int, width: int, heads: int) -> nn.Sequential:
    """A stack of pre-norm transformer blocks."""
    from timm.models.vision_transformer import Block

    return nn.Sequential(*[Block(width, heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(depth)])


def _xavier(module: nn.Module) -> None:
    """Initialisation of a linear layer in the bottleneck, as in masked autoencoders."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _truncated(module: nn.Module) -> None:
    """Initialisation of a linear layer in a decoder, as in Swin."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _windows(channels: int, cells: int, window: int, rates: list[float]) -> nn.Sequential:
    """Swin blocks with alternately plain and shifted windows.

    The side of a window is that of the token grid, 7 at 224 px, so it divides every level.
    """
    from timm.models.swin_transformer import SwinTransformerBlock

    return nn.Sequential(
        *[
            SwinTransformerBlock(
                # 32 channels per head, as in Swin.
                channels, (cells, cells), num_heads=max(1, channels // 32), window_size=window,
                shift_size=0 if number % 2 == 0 else window // 2, drop_path=rate,
            )
            for number, rate in enumerate(rates)
        ]
    )  # fmt: skip


def _in_windows(blocks: nn.Sequential, cells_BChw: Tensor) -> Tensor:
    """Run Swin blocks, which take channels last."""
    return blocks(cells_BChw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
