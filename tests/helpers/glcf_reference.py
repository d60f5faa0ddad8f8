"""GLCF once more, from the paper's equations (arXiv 2303.05768): plain functions of a state dict.

It shares no code with the detector, only names and values of the weights, so that a slip in the
wiring shows as a difference. Swin's windows are attention over all cells with a mask here.

Shapes: B batch; T = g * g tokens; D token width; h cells per side of a level; N = h * h.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

State = dict[str, Tensor]


def part(state: State, name: str) -> State:
    """The weights below a name."""
    return {key[len(name) + 1 :]: v for key, v in state.items() if key.startswith(f"{name}.")}


def numbered(state: State) -> list[State]:
    """The weights of a list's entries, in order."""
    count = 1 + max((int(key.split(".")[0]) for key in state), default=-1)
    return [part(state, str(index)) for index in range(count)]


def linear(x: Tensor, weights: State) -> Tensor:
    return x @ weights["weight"].flatten(1).T + weights.get("bias", 0)


def cellwise(x_BChw: Tensor, weights: State) -> Tensor:
    """A 1 x 1 convolution: the same linear map at every cell."""
    return linear(x_BChw.movedim(1, -1), weights).movedim(-1, 1)


def norm(x: Tensor, weights: State) -> Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
    return (x - mean) / (variance + 1e-5).sqrt() * weights["weight"] + weights["bias"]


def attention(x_BTD: Tensor, weights: State, heads: int, bias: Tensor | float = 0) -> Tensor:
    """Multi-head attention; `bias` is added to the logits, -inf where nothing is seen."""
    queries, keys, values = linear(x_BTD, part(weights, "qkv")).chunk(3, -1)
    mixed = []
    for head, (q, k, v) in enumerate(
        zip(queries.chunk(heads, -1), keys.chunk(heads, -1), values.chunk(heads, -1), strict=True)
    ):
        added = bias[head] if isinstance(bias, Tensor) else bias
        logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + added
        mixed.append(logits.softmax(-1) @ v)
    return linear(torch.cat(mixed, -1), part(weights, "proj"))


def block(x: Tensor, weights: State, heads: int, bias: Tensor | float = 0) -> Tensor:
    """A pre-norm transformer block with GELU."""
    normed = norm(x, part(weights, "norm1"))
    x = x + attention(normed, part(weights, "attn"), heads, bias)
    inner = F.gelu(linear(norm(x, part(weights, "norm2")), part(weights, "mlp.fc1")))
    return x + linear(inner, part(weights, "mlp.fc2"))


def positions(grid: int, width: int) -> Tensor:
    """Sines and cosines of row and column in 1 / 10000 ** (i / (D / 4)), (T, D).

    Sines before cosines; any order does, because embeddings are learned.
    """
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    rates = 1e4 ** -(np.arange(width // 4) / (width // 4))
    angles = [np.outer(rows, rates), np.outer(columns, rates)]
    waves = [wave(angle) for wave in (np.sin, np.cos) for angle in angles]
    return torch.from_numpy(np.concatenate(waves, 1)).float()


def embedded(levels: tuple[Tensor, ...], weights: State, grid: int) -> Tensor:
    """MS-PEM: patches of levels 1 to 3 on one grid, summed, plus positions."""
    tokens: Tensor | float = 0
    for level, kernel in zip(levels[1:], numbered(part(weights, "embed")), strict=True):
        patches = F.unfold(level, level.shape[-1] // grid, stride=level.shape[-1] // grid)
        tokens = tokens + linear(patches.transpose(1, 2), kernel)
    return tokens + positions(grid, tokens.shape[-1])


def aggregated(
    patches_BTD: Tensor, weights: State, heads: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """SAM with the PSS wiring: (z_global, z_local)."""
    count, tokens, width = patches_BTD.shape
    place_TD = positions(math.isqrt(tokens), width)
    first, second = (
        (weights[n] + place_TD).expand(count, -1, -1) for n in ("first_PD", "second_PD")
    )

    def stack(x: Tensor, name: str, heads: int) -> Tensor:
        for one in numbered(part(weights, name)):
            x = block(x, one, heads)
        return x

    def last(x: Tensor) -> Tensor:
        return linear(norm(x, part(weights, "decoder_norm")), part(weights, "out"))

    seen = stack(torch.cat([patches_BTD, first], 1), "encoder", heads[0])
    seen = linear(norm(seen, part(weights, "encoder_norm")), part(weights, "bridge"))
    local, semantic = seen[:, :tokens], seen[:, tokens:]
    whole = stack(torch.cat([semantic, second], 1), "global_decoder", heads[1])[:, tokens:]
    return last(whole), last(stack(local, "local_decoder", heads[1]))


def in_windows(x_BChw: Tensor, blocks: State, window: int) -> Tensor:
    """Swin blocks, every other one with shifted windows."""
    _, channels, side, _ = x_BChw.shape
    heads = max(1, channels // 32)
    x = x_BChw.flatten(2).transpose(1, 2)
    rows_N, columns_N = torch.arange(side).repeat_interleave(side), torch.arange(side).repeat(side)
    for number, weights in enumerate(numbered(blocks)):
        # A shift cuts the image half a window earlier, so there are narrower windows at its edges.
        shift = window // 2 if number % 2 else 0
        window_N = ((rows_N + window - shift) // window) * 2 * side
        window_N = window_N + (columns_N + window - shift) // window
        down_NN, right_NN = (at[:, None] - at[None] for at in (rows_N, columns_N))
        index_NN = (down_NN + window - 1) * (2 * window - 1) + right_NN + window - 1
        table = weights["attn.relative_position_bias_table"]
        bias_hNN = table[index_NN.clamp(0, len(table) - 1)].movedim(-1, 0)
        seen_NN = window_N[:, None] == window_N[None]
        x = block(x, weights, heads, bias_hNN.masked_fill(~seen_NN, -math.inf))
    return x.transpose(1, 2).unflatten(2, (side, side))


def upsampled(x_BChw: Tensor, weights: State) -> Tensor:
    """Dual up-sampling of SUNet: pixel shuffle and bilinear, merged."""
    smooth, shuffled = part(weights, "smooth"), part(weights, "shuffled")
    one = F.prelu(cellwise(x_BChw, part(shuffled, "0")), shuffled["1.weight"])
    one = cellwise(F.pixel_shuffle(one, 2), part(shuffled, "3"))
    other = F.prelu(cellwise(x_BChw, part(smooth, "0")), smooth["1.weight"])
    other = F.interpolate(other, scale_factor=2, mode="bilinear", align_corners=False)
    other = cellwise(other, part(smooth, "3"))
    return cellwise(torch.cat([one, other], 1), part(weights, "merge"))


def decoded(deep_BTC: Tensor, weights: State, grid: int) -> list[Tensor]:
    """Levels from fine to coarse, each taken right after its up-sampling."""
    deep = deep_BTC.transpose(1, 2).unflatten(2, (grid, grid))
    coarse = upsampled(deep, part(weights, "up_coarse"))
    inner = in_windows(coarse, part(weights, "coarse"), grid)
    middle = upsampled(inner, part(weights, "up_middle"))
    inner = in_windows(middle, part(weights, "middle"), grid)
    return [upsampled(inner, part(weights, "up_fine")), middle, coarse]


def networks(
    levels: tuple[Tensor, ...], state: State, heads: tuple[int, int]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """G = Phi_G(z_g), L = Psi_L(z_p) and P = Psi_G(z_p): both estimates read the local tokens."""
    grid = levels[3].shape[-1]
    tokens = embedded(levels, part(state, "embedding"), grid)
    z_global, z_local = aggregated(tokens, part(state, "aggregation"), heads)
    return (
        decoded(z_global, part(state, "correspondence"), grid),
        decoded(z_local, part(state, "local"), grid),
        decoded(z_local, part(state, "estimate"), grid),
    )


def distances(one: list[Tensor], other: list[Tensor]) -> list[Tensor]:
    """Squared distance of two pyramids at every cell, mean over channels, per level."""
    return [((a - b) ** 2).mean(1) for a, b in zip(one, other, strict=True)]


def smoothed_maps(maps: list[Tensor], size: int, sigma: float) -> np.ndarray:
    """Maps of all levels at image size, smoothed, (K, B, H, W)."""
    large = [
        F.interpolate(m[:, None], (size, size), mode="bilinear", align_corners=True) for m in maps
    ]
    return np.stack([gaussian_filter(m[:, 0].double().numpy(), (0, sigma, sigma), mode="mirror")
                     for m in large])  # fmt: skip
