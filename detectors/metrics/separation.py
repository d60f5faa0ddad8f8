"""How well scores tell synthetic anomalies from normal images: what choices are made by.

Controls are edits that change nothing logical. A score that finds them as readily as anomalies sees
the traces of editing, which real defects do not have, so anomalies are compared with normals and
with controls, and both count alike however few controls there are.

Shapes: N normals; M samples.
"""

import numpy as np


def separation(
    normal_N: np.ndarray, pair_M: np.ndarray, labels_M: np.ndarray, controls: bool = True
) -> float | None:
    """The mean of the AUROCs of anomalies against normals and against controls; None without both.

    `labels_M` is 1 for anomalies and 0 for controls. With one of the two kinds of normals missing,
    or without `controls`, the other alone counts.
    """
    anomalous, control = pair_M[labels_M == 1], pair_M[labels_M == 0]
    against = [normal_N, control] if controls else [normal_N]
    found = [_auroc(negative, anomalous) for negative in against if len(negative)]
    return float(np.mean(found)) if found and len(anomalous) else None


def controls_told(normal_N: np.ndarray, pair_M: np.ndarray, labels_M: np.ndarray) -> float:
    """The AUROC of controls against normals, less two standard deviations of it by chance.

    Above 0.5 the score sees traces of editing. 0 without either.
    """
    control_M = pair_M[labels_M == 0]
    normals, controls = len(normal_N), len(control_M)
    if not normals or not controls:
        return 0.0
    chance = ((normals + controls + 1) / (12 * normals * controls)) ** 0.5
    return _auroc(normal_N, control_M) - 2 * chance


def _auroc(negative_N: np.ndarray, positive_M: np.ndarray) -> float:
    """The probability that a positive score is higher, ties counted half (Mann-Whitney)."""
    # SciPy takes half a second to import.
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([negative_N, positive_M]))
    count = len(positive_M)
    above = ranks[len(negative_N) :].sum() - count * (count + 1) / 2
    return float(above / max(len(negative_N) * count, 1))
