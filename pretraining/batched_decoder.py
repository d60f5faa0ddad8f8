"""The mask decoder of segment-anything for many pictures at once, as training needs it.

`MaskDecoder.predict_masks` takes one picture and copies its embedding for every prompt before
anything else. This is the same arithmetic on the same parameters (a test holds them together) at a
third of the time on a CPU: the first layer's projections of the picture are made once per picture,
the residual stream stays in one dtype, and the two transposed convolutions, whose windows do not
overlap, are matrix products on channels-last tokens that are sorted into a picture only at the end.

Shapes: B pictures; P prompts per picture; N = B x P; T tokens per prompt; L = h x w embedding
cells; C channels; K = 4 masks.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def decode_batch(
    decoder: Any, embedding_BChw: Tensor, position_1Chw: Tensor, sparse_NTC: Tensor
) -> tuple[Tensor, Tensor]:
    """All mask logits (N, K, 4h, 4w) and predicted IoUs (N, K); prompts lie picture by picture.

    `embedding_BChw` already holds the prompt encoder's dense part (no mask given).
    """
    size, dtype = embedding_BChw.shape[2:], embedding_BChw.dtype
    queries = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens_NTC = torch.cat([queries[None].expand(len(sparse_NTC), -1, -1), sparse_NTC], 1)
    keys_BLC = embedding_BChw.flatten(2).transpose(1, 2).contiguous()
    position_1LC = position_1Chw.flatten(2).transpose(1, 2).to(dtype)
    answers_NTC, keys_NLC = _two_way(
        decoder.transformer, keys_BLC, position_1LC, tokens_NTC.to(dtype)
    )
    hyper_NKC = torch.stack(
        [mlp(answers_NTC[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], 1
    )
    logits_NKhw = _masks(decoder.output_upscaling, keys_NLC, hyper_NKC, size)
    return logits_NKhw, decoder.iou_prediction_head(answers_NTC[:, 0])


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


def _masks(upscaling: Any, keys_NLC: Tensor, hyper_NKC: Tensor, size: torch.Size) -> Tensor:
    """`output_upscaling` and the product with the hypernetworks' answers, (N, K, 4h, 4w)."""
    grow, norm, activate, grow_again, activate_again = upscaling
    fine = _doubled(grow, keys_NLC)
    fine = activate(F.layer_norm(fine, norm.weight.shape, norm.weight, norm.bias, norm.eps))
    finest = activate_again(_doubled(grow_again, fine))
    count, kinds = hyper_NKC.shape[:2]
    logits = finest.flatten(1, -2) @ hyper_NKC.transpose(1, 2)
    # Axes: N, row and column of the cell, of its quarter, of the quarter's quarter, mask.
    logits = logits.view(count, *size, 2, 2, 2, 2, kinds).permute(0, 7, 1, 3, 5, 2, 4, 6)
    return logits.reshape(count, kinds, 4 * size[0], 4 * size[1])


def _doubled(convolution: Any, cells: Tensor) -> Tensor:
    """A 2 x 2 transposed convolution of stride 2 as a product: (..., C) -> (..., 4, C')."""
    inputs, outputs = convolution.weight.shape[:2]
    weight = convolution.weight.permute(2, 3, 1, 0).reshape(4 * outputs, inputs)
    return F.linear(cells, weight, convolution.bias.repeat(4)).unflatten(-1, (4, outputs))
