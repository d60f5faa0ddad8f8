"""One image score from two: of the map, and of the pooled features.

Shapes: B images; 2 standardised scores, of the map and of the distance.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Rule = Literal["sum", "max"]
# Weights of the map's score that are compared.
WEIGHTS = np.linspace(0, 1, 21)


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
    scaled_B2 = scores_B2 * (weights_2 / weights_2.amax())
    return torch.where(counts_2, scaled_B2, scaled_B2.new_tensor(-torch.inf)).amax(1)
