"""One image score from two: of the map, and of the pooled features.

Shapes: B images; N normals; M samples; P parts of a score; 2 standardised scores, of the map and
of the distance.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from detectors.metrics.separation import controls_told, separation

Rule = Literal["sum", "max"]
# Weights of the map's score that are compared.
WEIGHTS = np.linspace(0, 1, 21)
# A later candidate, or another weight than the usual one, must separate better by this, and by half
# a normal's share of the AUROC: smaller differences are chance.
MARGIN = 0.005


def fused(scores_B2: Tensor, weight: Tensor, rule: Rule) -> Tensor:
    """(B,): the weighted sum of both scores, or the larger one; `weight` is that of the first.

    With equal weights they are the sum of PUAD, and the plain maximum. In a sum the noise of the
    score that sees nothing hides what the other one sees; the maximum is for anomalies that only
    one of them sees.
    """
    weights_2 = torch.stack((weight, 1 - weight)).to(scores_B2)
    if rule == "sum":
        # Twice the mean, so that equal weights give the plain sum.
        return 2 * (scores_B2 * weights_2).sum(1)
    # Without weight a score does not count, not even as zero.
    counts_2 = weights_2 > 0
    scaled_B2 = scores_B2 * (weights_2 / weights_2.amax(0))
    return torch.where(counts_2, scaled_B2, scaled_B2.new_tensor(-torch.inf)).amax(1)


def scales(normals_NP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (P,) of the parts of normals that the fit has not seen."""
    # Population statistics in float64, as in PUAD's released code.
    deviation_P = normals_NP.std(0, correction=0)
    # A few equal images have no spread; their scores stay unscaled.
    return normals_NP.mean(0), torch.where(deviation_P > 1e-9, deviation_P, 1.0)


class _Tried(NamedTuple):
    """A candidate with a weight: how well it separates anomalies, and how well it tells controls
    from normals."""

    number: int
    weight: float
    separation: float
    told: float


def separation_at(
    weight: float, rule: Rule, normals_N2: Tensor, pairs_M2: Tensor, labels_M: Tensor
) -> float | None:
    """How well the fused scores separate anomalies; None without anomalies or without normals."""
    return separation(*_fused_arrays(weight, rule, normals_N2, pairs_M2), labels_M.cpu().numpy())


def choose(
    candidates: Iterable[tuple[Tensor, Tensor]],
    labels_M: Tensor,
    rule: Rule,
    usual: float,
    normals: int,
) -> tuple[int, float]:
    """The candidate and the weight that separate synthetic anomalies best.

    A candidate is a pair of standardised scores, (N, 2) of `normals` normals and (M, 2) of samples.
    The first one and the weight nearest to `usual` win unless another is clearly better (`MARGIN`).
    Where the winner tells controls from normals, an equally good one that does so least is taken
    instead: a score that sees changes without a meaning sees the next change of the light, too.
    """
    margin = max(MARGIN, 0.5 / normals)
    # From simple to complicated, and from the usual weight outwards.
    near = sorted(WEIGHTS.tolist(), key=lambda one: abs(one - usual))
    labels = labels_M.cpu().numpy()
    tried: list[_Tried] = []
    for number, (normals_N2, pairs_M2) in enumerate(candidates):
        for weight in near:
            scores = _fused_arrays(weight, rule, normals_N2, pairs_M2)
            found = separation(*scores, labels)
            # Without anomalies or normals it is so for all of them.
            if found is None:
                return 0, usual
            tried.append(_Tried(number, weight, found, controls_told(*scores, labels)))
    best = tried[0]
    for one in tried:
        if one.separation > best.separation + margin:
            best = one
    if best.told > 0.5:
        equal = (one for one in tried if one.separation >= best.separation - margin)
        best = min(equal, key=lambda one: one.told)
    return best.number, best.weight


def _fused_arrays(
    weight: float, rule: Rule, normals_N2: Tensor, pairs_M2: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """The fused scores (N,) of normals and (M,) of samples."""
    normal_N, pair_M = (
        fused(scores, torch.tensor(weight), rule).cpu().numpy() for scores in (normals_N2, pairs_M2)
    )
    return normal_N, pair_M
