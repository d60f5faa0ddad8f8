"""One image score from two: of the map, and of the pooled features.

Shapes: B images; N normals; M samples; P parts of a score; 2 standardised scores, of the map and
of the distance.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from detectors.metrics.separation import separation

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


def separation_at(
    weight: float, rule: Rule, normals_N2: Tensor, pairs_M2: Tensor, labels_M: Tensor
) -> float | None:
    """How well the fused scores separate anomalies; None without anomalies or without normals."""
    normal_N, pair_M = (
        fused(scores, torch.tensor(weight), rule).cpu().numpy() for scores in (normals_N2, pairs_M2)
    )
    return separation(normal_N, pair_M, labels_M.cpu().numpy())


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
    """
    margin = max(MARGIN, 0.5 / normals)
    best, chosen = -1.0, (0, usual)
    # From simple to complicated, and from the usual weight outwards.
    near = sorted(WEIGHTS.tolist(), key=lambda one: abs(one - usual))
    for number, (normals_N2, pairs_M2) in enumerate(candidates):
        for weight in near:
            found = separation_at(weight, rule, normals_N2, pairs_M2, labels_M)
            if found is not None and found > best + margin:
                best, chosen = found, (number, weight)
    return chosen
