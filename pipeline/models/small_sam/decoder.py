"""The mask decoder of the bundled small SAM: segment-anything's, with finer masks and in batches.

`MaskDecoder.predict_masks` takes one picture and copies its embedding for every prompt before
anything else. Here the first layer's projections of the picture are made once per picture, the
residual stream stays in one dtype, and the two transposed convolutions, whose windows do not
overlap, are matrix products on channels-last tokens that are sorted into a picture only at the end:
a third of the time on a CPU, for many pictures at once, as training needs it.

Two things are added to the original, after SAM 2 (Ravi et al., 2024): the encoder's finer maps join
the upscaling, and a last doubling adds a mix of the finest map, mixed by the prompt's own weights.

Shapes: B pictures; P prompts per picture; N = B x P; T tokens per prompt; L = h x w embedding
cells; C channels; K = 4 masks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from pipeline.models.small_sam.encoder import HALF, Features, unpack


class DetailDecoder(MaskDecoder):
    """A `MaskDecoder` for packed features (`Features.pack`); logits have half the input's side."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        dim = self.transformer_dim
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
        """All four masks (N, 4, 8h, 8w) and predicted IoUs (N, 4) of one picture's N prompts."""
        features = unpack(image_embeddings)
        masks = dense_prompt_embeddings
        if len(masks) > 1 and masks.stride(0):  # mask prompts: each sees a picture of its own
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
    """All mask logits (N, K, 8h, 8w) and predicted IoUs (N, K); prompts lie picture by picture.

    `dense_BChw` is the prompt encoder's dense part, one for all pictures or one for each.
    """
    answers_NTC, keys_NLC = _answers(decoder, features, dense_BChw, position_1Chw, sparse_NTC)
    mask_tokens = answers_NTC[:, 1 : 1 + decoder.num_mask_tokens].unbind(1)
    hyper_NKC = _mixed(decoder.output_hypernetworks_mlps, mask_tokens)
    size = features.embedding_BChw.shape[2:]
    coarse_NKhw = _masks(decoder.output_upscaling, keys_NLC, hyper_NKC, size, features)
    logits_NKhw = F.interpolate(coarse_NKhw, scale_factor=2.0, mode="bilinear")
    pictures, kinds = len(features.embedding_BChw), decoder.num_mask_tokens
    fine_BPKC = _mixed(decoder.detail_hypernetworks, mask_tokens).view(pictures, -1, HALF)
    fine_BPKhw = fine_BPKC @ features.half_BChw.flatten(2).to(fine_BPKC.dtype)
    logits_NKhw = logits_NKhw + fine_BPKhw.view(-1, kinds, *logits_NKhw.shape[2:])
    return logits_NKhw, decoder.iou_prediction_head(answers_NTC[:, 0])


def decode_good(
    decoder: Any,
    packed_1Chw: Tensor,
    position_1Chw: Tensor,
    sparse_NTC: Tensor,
    dense_1Chw: Tensor,
    least: float,
) -> tuple[Tensor, Tensor]:
    """The masks of doubtful prompts that promise an IoU of `least`: logits (M, 8h, 8w), IoUs (M,).

    `predict_masks` of one picture without the single mask (K = 3). The promise is known before
    anything is painted, and two masks of three are not worth it.
    """
    features = unpack(packed_1Chw)
    answers_NTC, keys_NLC = _answers(decoder, features, dense_1Chw, position_1Chw, sparse_NTC)
    iou_NK = decoder.iou_prediction_head(answers_NTC[:, 0])[:, 1:].float()
    asked_N = (iou_NK >= least).any(1)
    good_NK = (iou_NK >= least)[asked_N]
    if not len(good_NK):
        side = features.half_BChw.shape[2:]
        return iou_NK.new_zeros((0, *side)), iou_NK.new_zeros(0)
    mask_tokens = answers_NTC[asked_N, 2 : 1 + decoder.num_mask_tokens].unbind(1)
    hyper_NKC = _mixed(decoder.output_hypernetworks_mlps[1:], mask_tokens)
    size = features.embedding_BChw.shape[2:]
    coarse_NKhw = _masks(decoder.output_upscaling, keys_NLC[asked_N], hyper_NKC, size, features)
    # In float32, which doubles faster than bfloat16 on a CPU.
    coarse_Mhw = coarse_NKhw[good_NK].float()
    logits_Mhw = F.interpolate(coarse_Mhw[:, None], scale_factor=2.0, mode="bilinear")[:, 0]
    fine_MC = _mixed(decoder.detail_hypernetworks[1:], mask_tokens)[good_NK]
    fine_ML = fine_MC @ features.half_BChw[0].flatten(1).to(fine_MC.dtype)
    return logits_Mhw + fine_ML.view_as(logits_Mhw), iou_NK[asked_N][good_NK]


def _answers(
    decoder: Any,
    features: Features,
    dense_BChw: Tensor,
    position_1Chw: Tensor,
    sparse_NTC: Tensor,
) -> tuple[Tensor, Tensor]:
    """What the two-way transformer makes of the tokens (N, T, C) and of the cells (N, L, C)."""
    embedding_BChw = features.embedding_BChw + dense_BChw.to(features.embedding_BChw.dtype)
    queries = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens_NTC = torch.cat([queries[None].expand(len(sparse_NTC), -1, -1), sparse_NTC], 1)
    keys_BLC = embedding_BChw.flatten(2).transpose(1, 2).contiguous()
    position_1LC = position_1Chw.flatten(2).transpose(1, 2).to(keys_BLC.dtype)
    return _two_way(decoder.transformer, keys_BLC, position_1LC, tokens_NTC.to(keys_BLC.dtype))


def _mixed(networks: Any, tokens: tuple[Tensor, ...]) -> Tensor:
    """Each mask token through its own network: the weights (N, K, C) of the mask's channels."""
    return torch.stack([network(token) for network, token in zip(networks, tokens, strict=True)], 1)


def _two_way(
    transformer: Any, keys_BLC: Tensor, position_1LC: Tensor, tokens_NTC: Tensor
) -> tuple[Tensor, Tensor]:
    """`TwoWayTransformer.forward`, the picture not yet copied in its first layer."""
    pictures = len(keys_BLC)
    first, *others = transformer.layers
    queries = first.norm1(first.self_attn(tokens_NTC, tokens_NTC, tokens_NTC))
    placed = keys_BLC + position_1LC
    # Every token attends on its own, so a picture's prompts may ask in one long row.
    row = (queries + tokens_NTC).view(pictures, -1, queries.shape[2])
    queries = queries + first.cross_attn_token_to_image(row, placed, keys_BLC).view_as(queries)
    queries = first.norm3((queries := first.norm2(queries)) + first.mlp(queries))
    seen = _shared_query_attention(
        first.cross_attn_image_to_token, placed, queries + tokens_NTC, queries
    )
    keys = first.norm4((keys_BLC[:, None] + seen).flatten(0, 1))
    for layer in others:
        asked = queries + tokens_NTC
        queries = layer.norm1(queries + layer.self_attn(asked, asked, queries))
        placed = keys + position_1LC
        asked = queries + tokens_NTC
        queries = layer.norm2(queries + layer.cross_attn_token_to_image(asked, placed, keys))
        queries = layer.norm3(queries + layer.mlp(queries))
        asked = queries + tokens_NTC
        keys = layer.norm4(keys + layer.cross_attn_image_to_token(placed, asked, queries))
    asked = queries + tokens_NTC
    last = transformer.final_attn_token_to_image(asked, keys + position_1LC, keys)
    return transformer.norm_final_attn(queries + last), keys


def _shared_query_attention(
    attention: Any, query_BLC: Tensor, key_NTC: Tensor, value_NTC: Tensor
) -> Tensor:
    """`Attention.forward` with one query row per picture for all of its prompts: (B, P, L, C)."""
    pictures, heads = len(query_BLC), attention.num_heads

    def split(x: Tensor) -> Tensor:  # (..., n, C) -> (B, -1, heads, n, C / heads)
        return x.view(pictures, -1, x.shape[1], heads, x.shape[2] // heads).transpose(2, 3)

    query = split(attention.q_proj(query_BLC))
    key = split(attention.k_proj(key_NTC))
    value = split(attention.v_proj(value_NTC))
    weight = (query @ key.transpose(3, 4) / query.shape[4] ** 0.5).softmax(4)
    return attention.out_proj((weight @ value).transpose(2, 3).flatten(3))


def _masks(
    upscaling: Any, keys_NLC: Tensor, hyper_NKC: Tensor, size: torch.Size, features: Features
) -> Tensor:
    """`output_upscaling` with the finer maps, times the hypernetworks' answers, (N, K, 4h, 4w)."""
    grow, norm, activate, grow_again, activate_again = upscaling
    fine = _doubled(grow, keys_NLC)
    fine = _joined(fine, _by_cell(features.eighth_BChw, 1))
    fine = activate(F.layer_norm(fine, norm.weight.shape, norm.weight, norm.bias, norm.eps))
    finest = _joined(_doubled(grow_again, fine), _by_cell(features.quarter_BChw, 2))
    logits = activate_again(finest).flatten(1, -2) @ hyper_NKC.transpose(1, 2)
    # Axes: N, row and column of the cell, of its quarter, of the quarter's quarter, mask.
    count, kinds = hyper_NKC.shape[:2]
    logits = logits.view(count, *size, 2, 2, 2, 2, kinds).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return logits.reshape(count, kinds, 4 * size[0], 4 * size[1])


def _joined(cells_NC: Tensor, picture_BC: Tensor) -> Tensor:
    """The prompts' cells plus their picture's, prompts lying picture by picture."""
    split = cells_NC.unflatten(0, (len(picture_BC), -1)) + picture_BC[:, None]
    return split.flatten(0, 1)


def _by_cell(map_BChw: Tensor, halvings: int) -> Tensor:
    """A finer map in the order of `_doubled`: (B, L, 4, C), or (B, L, 4, 4, C) for two halvings."""
    cells = map_BChw.permute(0, 2, 3, 1)
    pictures, rows, columns, channels = cells.shape
    side = 2**halvings
    cells = cells.reshape(
        pictures, rows // side, *[2] * halvings, columns // side, *[2] * halvings, channels
    )
    if halvings == 1:  # row, its half, column, its half
        cells = cells.permute(0, 1, 3, 2, 4, 5)
    else:
        cells = cells.permute(0, 1, 4, 2, 5, 3, 6, 7)
    return cells.reshape(pictures, -1, *[4] * halvings, channels)


def _doubled(convolution: Any, cells: Tensor) -> Tensor:
    """A 2 x 2 transposed convolution of stride 2 as a product: (..., C) -> (..., 4, C')."""
    inputs, outputs = convolution.weight.shape[:2]
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(4 * outputs, inputs)
    return F.linear(cells, weight, convolution.bias.repeat(4)).unflatten(-1, (4, outputs))
