"""The mask decoder of the bundled small SAM: segment-anything's, with finer masks and in batches.

`MaskDecoder.predict_masks` takes one image and copies its embedding for every prompt before
anything else. Here the first layer projects each image only once, the residual stream stays in one
dtype, and the two transposed convolutions, whose windows do not overlap, are matrix products on
channels-last tokens that are sorted into an image only at the end. This takes a third of the time
on a CPU and handles many images at once, as training needs it.

Two things are added to the original, as in SAM 2 (Ravi et al., 2024): the encoder's finer maps are
added during upscaling, and after a last doubling each prompt adds its own linear combination of the
channels of the finest map.

Shapes: B images; P prompts per image; N = B x P, image by image; T tokens per prompt; L = h x w
embedding cells; C channels; K = 4 masks; M masks that are kept.
"""

from pipeline.models import lean_segment_anything as _lean  # noqa: F401  isort: skip  first

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from pipeline.models.small_sam.encoder import HALF, Features, unpack

# Prompts are decoded in multiples of this number where the products are compiled.
STEP = 8


class DetailDecoder(MaskDecoder):
    """A `MaskDecoder` for packed features (`Features.pack`); logits have half the input's side."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        dim = self.transformer_dim
        # One network per mask token, from the token to weights of the finest map's channels.
        self.detail_hypernetworks = nn.ModuleList(
            MLP(dim, dim, HALF, 3) for _ in range(self.num_mask_tokens)
        )

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """All four masks (N, 4, 8h, 8w) and predicted IoUs (N, 4) of one image's N prompts."""
        features = unpack(image_embeddings)
        masks = dense_prompt_embeddings
        # Without mask prompts, the prompt encoder expands one map for all prompts, with stride 0.
        # With mask prompts, every prompt changes the embedding and counts as an image of its own.
        if len(masks) > 1 and masks.stride(0):
            features = Features(*(one.expand(len(masks), -1, -1, -1) for one in features))
        else:
            masks = masks[:1]
        return decode_batch(self, features, masks, image_pe, sparse_prompt_embeddings)


def decode_batch(
    decoder: Any,
    features: Features,
    dense_BChw: Tensor,
    position_1Chw: Tensor,
    sparse_NTC: Tensor,
) -> tuple[Tensor, Tensor]:
    """All mask logits (N, K, 8h, 8w) and predicted IoUs (N, K) of the prompts of B images.

    `dense_BChw` is the prompt encoder's dense output, one for all images or one for each.
    """
    tokens_NTC, cells_NLC = _attend(decoder, features, dense_BChw, position_1Chw, sparse_NTC)
    # Token 0 predicts the IoUs, the next K are the masks.
    mask_tokens = tokens_NTC[:, 1 : 1 + decoder.num_mask_tokens].unbind(1)
    weights_NKC = _channel_weights(decoder.output_hypernetworks_mlps, mask_tokens)
    size = features.embedding_BChw.shape[2:]
    coarse_NKhw = _upscale(decoder.output_upscaling, cells_NLC, weights_NKC, size, features)
    logits_NKhw = F.interpolate(coarse_NKhw, scale_factor=2.0, mode="bilinear")
    # Add the combination of the finest map, one product per image for all of its prompts.
    images, kinds = len(features.embedding_BChw), decoder.num_mask_tokens
    fine_BPKC = _channel_weights(decoder.detail_hypernetworks, mask_tokens).view(images, -1, HALF)
    fine_BPKhw = fine_BPKC @ features.half_BChw.flatten(2).to(fine_BPKC.dtype)
    logits_NKhw = logits_NKhw + fine_BPKhw.view(-1, kinds, *logits_NKhw.shape[2:])
    return logits_NKhw, decoder.iou_prediction_head(tokens_NTC[:, 0])


def decode_confident(
    decoder: Any,
    packed_1Chw: Tensor,
    position_1Chw: Tensor,
    sparse_NTC: Tensor,
    dense_1Chw: Tensor,
    min_iou: float,
) -> tuple[Tensor, Tensor]:
    """Masks of one image with a predicted IoU of at least `min_iou`: logits (M, 8h, 8w), IoUs (M,).

    Like `predict_masks` for one image with `multimask_output` (K = 3). IoUs are predicted from the
    tokens alone, before any mask is upscaled, and two of three masks usually fall below the limit.
    """
    features, prompts = unpack(packed_1Chw), len(sparse_NTC)
    # oneDNN, which multiplies bfloat16 on CPUs, compiles the forty matrix products again for every
    # number of rows, half a second an image, and keeps a thousand of them, 0.4 GB. A row does not
    # depend on the others. In float32 nothing is compiled.
    reduced = packed_1Chw.device.type == "cpu" and packed_1Chw.dtype == torch.bfloat16
    step = STEP if reduced else 1
    sparse_NTC = sparse_NTC[_whole_steps(torch.arange(prompts), step)]
    tokens_NTC, cells_NLC = _attend(decoder, features, dense_1Chw, position_1Chw, sparse_NTC)
    # Mask 0 is the single-mask output, which is not used here.
    iou_NK = decoder.iou_prediction_head(tokens_NTC[:, 0])[:, 1:].float()
    # Upscale the prompts with at least one confident mask, then select among their masks.
    confident = (iou_NK[:prompts] >= min_iou).any(1).nonzero()[:, 0]
    needed_N = _whole_steps(confident, step)
    good_NK = iou_NK[needed_N] >= min_iou
    # Those that fill the last step give no mask.
    good_NK[len(confident) :] = False
    if not len(confident):
        side = features.half_BChw.shape[2:]
        return iou_NK.new_zeros((0, *side)), iou_NK.new_zeros(0)
    mask_tokens = tokens_NTC[needed_N, 2 : 1 + decoder.num_mask_tokens].unbind(1)
    weights_NKC = _channel_weights(decoder.output_hypernetworks_mlps[1:], mask_tokens)
    size = features.embedding_BChw.shape[2:]
    cells_NLC = cells_NLC[needed_N]
    coarse_NKhw = _upscale(decoder.output_upscaling, cells_NLC, weights_NKC, size, features)
    # In float32, which interpolates faster than bfloat16 on a CPU.
    coarse_Mhw = coarse_NKhw[good_NK].float()
    logits_Mhw = F.interpolate(coarse_Mhw[:, None], scale_factor=2.0, mode="bilinear")[:, 0]
    fine_MC = _channel_weights(decoder.detail_hypernetworks[1:], mask_tokens)[good_NK]
    rows_M = _whole_steps(torch.arange(len(fine_MC)), step)
    fine_ML = fine_MC[rows_M] @ features.half_BChw[0].flatten(1).to(fine_MC.dtype)
    fine_Mhw = fine_ML[: len(fine_MC)].view_as(logits_Mhw)
    return logits_Mhw + fine_Mhw, iou_NK[needed_N][good_NK]


def _whole_steps(indices_N: Tensor, step: int) -> Tensor:
    """The indices, the last one repeated up to a multiple of `step`."""
    more = -len(indices_N) % step
    return torch.cat([indices_N, indices_N[-1:].expand(more)]) if more else indices_N


def _attend(
    decoder: Any,
    features: Features,
    dense_BChw: Tensor,
    position_1Chw: Tensor,
    sparse_NTC: Tensor,
) -> tuple[Tensor, Tensor]:
    """The tokens (N, T, C) and embedding cells (N, L, C) after the two-way transformer."""
    embedding_BChw = features.embedding_BChw + dense_BChw.to(features.embedding_BChw.dtype)
    # Tokens of a prompt: IoU token, mask tokens, then the embedded points.
    queries = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens_NTC = torch.cat([queries[None].expand(len(sparse_NTC), -1, -1), sparse_NTC], 1)
    keys_BLC = embedding_BChw.flatten(2).transpose(1, 2).contiguous()
    # All in the dtype of the embedding: mixed sums under autocast would return to float32.
    position_1LC = position_1Chw.flatten(2).transpose(1, 2).to(keys_BLC.dtype)
    return _two_way(decoder.transformer, keys_BLC, position_1LC, tokens_NTC.to(keys_BLC.dtype))


def _channel_weights(networks: Any, tokens: tuple[Tensor, ...]) -> Tensor:
    """Each mask token through its own network: weights (N, K, C) of a map's channels."""
    return torch.stack([network(token) for network, token in zip(networks, tokens, strict=True)], 1)


def _two_way(
    transformer: Any, keys_BLC: Tensor, position_1LC: Tensor, tokens_NTC: Tensor
) -> tuple[Tensor, Tensor]:
    """`TwoWayTransformer.forward`, in whose first layer each image is not yet copied per prompt."""
    images = len(keys_BLC)
    first, *others = transformer.layers
    queries = first.norm1(first.self_attn(tokens_NTC, tokens_NTC, tokens_NTC))
    # `_pos`: with the positional encoding added.
    keys_pos = keys_BLC + position_1LC
    # Tokens attend independently, so all prompts of an image form one long row of queries.
    row = (queries + tokens_NTC).view(images, -1, queries.shape[2])
    queries = queries + first.cross_attn_token_to_image(row, keys_pos, keys_BLC).view_as(queries)
    queries = first.norm3((queries := first.norm2(queries)) + first.mlp(queries))
    # From here on the cells differ between prompts: (B, L, C) becomes (N, L, C).
    change_BPLC = _shared_query_attention(
        first.cross_attn_image_to_token, keys_pos, queries + tokens_NTC, queries
    )
    keys = first.norm4((keys_BLC[:, None] + change_BPLC).flatten(0, 1))
    for layer in others:
        queries_pos = queries + tokens_NTC
        queries = layer.norm1(queries + layer.self_attn(queries_pos, queries_pos, queries))
        keys_pos = keys + position_1LC
        queries_pos = queries + tokens_NTC
        queries = layer.norm2(
            queries + layer.cross_attn_token_to_image(queries_pos, keys_pos, keys)
        )
        queries = layer.norm3(queries + layer.mlp(queries))
        queries_pos = queries + tokens_NTC
        keys = layer.norm4(keys + layer.cross_attn_image_to_token(keys_pos, queries_pos, queries))
    queries_pos = queries + tokens_NTC
    last = transformer.final_attn_token_to_image(queries_pos, keys + position_1LC, keys)
    return transformer.norm_final_attn(queries + last), keys


def _shared_query_attention(
    attention: Any, query_BLC: Tensor, key_NTC: Tensor, value_NTC: Tensor
) -> Tensor:
    """`Attention.forward` with the queries of an image shared by its prompts: (B, P, L, C)."""
    images, heads = len(query_BLC), attention.num_heads

    def split(x: Tensor) -> Tensor:
        """(..., n, C) -> (B, -1, heads, n, C / heads)."""
        return x.view(images, -1, x.shape[1], heads, x.shape[2] // heads).transpose(2, 3)

    query = split(attention.q_proj(query_BLC))
    key = split(attention.k_proj(key_NTC))
    value = split(attention.v_proj(value_NTC))
    # The query's prompt axis has length 1 and is broadcast.
    weight = (query @ key.transpose(3, 4) / query.shape[4] ** 0.5).softmax(4)
    return attention.out_proj((weight @ value).transpose(2, 3).flatten(3))


def _upscale(
    upscaling: Any, cells_NLC: Tensor, weights_NKC: Tensor, size: torch.Size, features: Features
) -> Tensor:
    """Mask logits (N, K, 4h, 4w): `output_upscaling` plus the finer maps, weighted by channel."""
    grow, norm, activate, grow_again, activate_again = upscaling
    fine = _doubled(grow, cells_NLC)
    fine = _add_per_image(fine, _by_cell(features.eighth_BChw, 1))
    # The original's LayerNorm2d; here the channels are last.
    fine = activate(F.layer_norm(fine, norm.weight.shape, norm.weight, norm.bias, norm.eps))
    finest = _add_per_image(_doubled(grow_again, fine), _by_cell(features.quarter_BChw, 2))
    logits = activate_again(finest).flatten(1, -2) @ weights_NKC.transpose(1, 2)
    # Axes: N, row and column of the cell, of its quarter, of the quarter's quarter, mask.
    count, kinds = weights_NKC.shape[:2]
    logits = logits.view(count, *size, 2, 2, 2, 2, kinds).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return logits.reshape(count, kinds, 4 * size[0], 4 * size[1])


def _add_per_image(cells_NC: Tensor, image_BC: Tensor) -> Tensor:
    """The cells of each prompt plus those of its image."""
    split = cells_NC.unflatten(0, (len(image_BC), -1)) + image_BC[:, None]
    return split.flatten(0, 1)


def _by_cell(map_BChw: Tensor, halvings: int) -> Tensor:
    """A finer map in the order of `_doubled`: (B, L, 4, C), or (B, L, 4, 4, C) for two halvings."""
    cells = map_BChw.permute(0, 2, 3, 1)
    images, rows, columns, channels = cells.shape
    side = 2**halvings
    cells = cells.reshape(
        images, rows // side, *[2] * halvings, columns // side, *[2] * halvings, channels
    )
    # From (row, its halves, column, its halves) to (row, column, half of row, half of column, ...).
    if halvings == 1:
        cells = cells.permute(0, 1, 3, 2, 4, 5)
    else:
        cells = cells.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cells.reshape(images, -1, *[4] * halvings, channels)


def _doubled(convolution: Any, cells: Tensor) -> Tensor:
    """A 2 x 2 transposed convolution of stride 2 as a matrix product: (..., C) -> (..., 4, C')."""
    inputs, outputs = convolution.weight.shape[:2]
    # ConvTranspose2d stores (C, C', 2, 2); rows of the product are (row, column, C').
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(4 * outputs, inputs)
    return F.linear(cells, weight, convolution.bias.repeat(4)).unflatten(-1, (4, outputs))
