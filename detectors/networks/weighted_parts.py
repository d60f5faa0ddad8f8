"""One image score from any number of parts: their mean under weights that synthetic anomalies set.

    weighted = WeightedParts(parts=13)
    weighted.fuse(normals_NP, pairs_MP, labels_M, kinds_M)      # scales and weights
    image_B = weighted(parts_BP)

The weights are those of a logistic regression of anomalies against normals and controls: not
negative, since a large part must not make an image look better, and shrunk (ridge), since parts
are many, alike, and judged on few images. So parts that separate equally well share the weight,
where a choice of one of them would be chance; how far beyond `FAR` an anomaly lies does not count.

Real defects are of no kind that the weights have seen. So how far they are shrunk is decided by
kinds that they have not seen, and they are as even as that allows (`chosen_ridge`).

Shapes: B batch; N normals; M samples; K = N + M; P parts.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from detectors.metrics.separation import separation
from detectors.networks.fusion import scales

# Weights of the squared weights in the loss, which is a mean over images. Under the last, a part
# weighs nearly in proportion to how far it alone sets anomalies apart.
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
# What a stronger ridge may cost of the separation of unseen kinds: next to nothing.
COST = 0.002
# Standard deviations of normals. What lies further is found as surely and earns a part no more
# weight: parts in which anomalies lie a hundred away see the next change of the light, too.
FAR = 10.0


class WeightedParts(nn.Module):
    """`mean_P` and `deviation_P` standardise the parts, `weight_P` sums to 1.

    Before `fuse`, and without synthetic anomalies, the first part is the score.
    """

    mean_P: Tensor
    deviation_P: Tensor
    weight_P: Tensor

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.register_buffer("mean_P", torch.zeros(parts))
        self.register_buffer("deviation_P", torch.ones(parts))
        self.register_buffer("weight_P", torch.eye(parts)[0])

    @torch.no_grad()
    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        """Standardise the parts on held-out normals, and weigh them by held-out samples.

        `labels_M` is 1 for anomalies and 0 for controls, `kinds_M` tells kinds of edits apart.
        """
        # A run that fuses again must not keep earlier weights.
        self.weight_P.copy_(torch.eye(len(self.weight_P))[0])
        if not len(normals_NP):
            return
        mean_P, deviation_P = scales(normals_NP)
        self.mean_P.copy_(mean_P)
        self.deviation_P.copy_(deviation_P)
        if (labels_M == 1).any():
            normals, pairs = (
                ((parts - mean_P) / deviation_P).clamp(max=FAR).cpu().numpy()
                for parts in (normals_NP, pairs_MP)
            )
            labels, kinds = labels_M.cpu().numpy(), kinds_M.cpu().numpy()
            ridge = chosen_ridge(normals, pairs, labels, kinds)
            weight_P = regression_weights(normals, pairs, labels, ridge)
            # Where nothing separates, no part has any weight.
            if weight_P.any():
                self.weight_P.copy_(torch.from_numpy(weight_P / weight_P.sum()))

    def forward(self, parts_BP: Tensor) -> Tensor:
        """Image scores (B,): normals have mean 0."""
        return ((parts_BP - self.mean_P) / self.deviation_P * self.weight_P).sum(1)


def chosen_ridge(
    normals_NP: np.ndarray, pairs_MP: np.ndarray, labels_M: np.ndarray, kinds_M: np.ndarray
) -> float:
    """The ridge that separates unseen kinds best, or a stronger one that costs at most `COST`.

    Weights that all other kinds set are judged on the one left out; every kind counts alike. With
    fewer than two kinds there is none to leave out, and the weakest ridge is taken.
    """
    kinds = np.unique(kinds_M[labels_M == 1])
    if len(kinds) < 2:
        return RIDGES[0]

    def separations(ridge: float) -> Iterator[float]:
        for kind in kinds:
            left_M = (labels_M == 1) & (kinds_M == kind)
            weight_P = regression_weights(normals_NP, pairs_MP[~left_M], labels_M[~left_M], ridge)
            judged_M = left_M | (labels_M != 1)
            pair_M = pairs_MP[judged_M] @ weight_P
            found = separation(normals_NP @ weight_P, pair_M, labels_M[judged_M])
            # There are normals and samples of the kind.
            assert found is not None
            yield found

    found = [float(np.mean([*separations(ridge)])) for ridge in RIDGES]
    best = max(found)
    chosen = found.index(best)
    while chosen + 1 < len(RIDGES) and found[chosen + 1] >= best - COST:
        chosen += 1
    return RIDGES[chosen]


def regression_weights(
    normals_NP: np.ndarray, pairs_MP: np.ndarray, labels_M: np.ndarray, ridge: float
) -> np.ndarray:
    """The weights (P,) >= 0 of a ridge logistic regression on standardised parts.

    Anomalies count as much as all others together, of which controls are half, however few there
    are: a score that finds traces of editing is no use.
    """
    # SciPy takes half a second to import.
    from scipy.optimize import minimize
    from scipy.special import expit

    parts_KP = np.concatenate([normals_NP, pairs_MP])
    sign_K = np.concatenate([-np.ones(len(normals_NP)), np.where(labels_M == 1, 1.0, -1.0)])
    groups_K = np.concatenate([np.zeros(len(normals_NP), int), np.where(labels_M == 1, 2, 1)])
    counts_3 = np.bincount(groups_K, minlength=3)
    others = int((counts_3[:2] > 0).sum())
    share_K = np.array([0.5 / others, 0.5 / others, 0.5])[groups_K] / counts_3[groups_K]

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        weight_P, offset = values[:-1], values[-1]
        margin_K = sign_K * (parts_KP @ weight_P + offset)
        slope_K = -share_K * sign_K * expit(-margin_K)
        value = share_K @ np.logaddexp(0, -margin_K) + ridge * weight_P @ weight_P
        gradient_P = parts_KP.T @ slope_K + 2 * ridge * weight_P
        return float(value), np.append(gradient_P, slope_K.sum())

    count = parts_KP.shape[1]
    bounds = [(0, None)] * count + [(None, None)]
    found = minimize(loss, np.zeros(count + 1), jac=True, bounds=bounds, method="L-BFGS-B")
    weight_P: np.ndarray = found.x[:-1]
    return weight_P
