"""How much lower the fit of all scores a fresh image than a fit without a part of the images.

    shift_P = fold_shift(whole_VP, folds_FVP, fresh_FV)     # added to the parts of every fold

A fit that has seen fewer images finds a fresh one stranger: its memory has fewer entries, its
network fewer examples. With two parts of 20 normals that is more than half a standard deviation,
and the highest of such scores is a threshold that anomalies do not reach under the fit of all. No
fit has seen the validation split, so its images tell by how much scores differ, each compared with
itself.

Shapes: F fits without a part; V images of the validation split; P parts of a score.
"""

import numpy as np

# How sure it is that no more is taken off than is due: one standard error of many images.
SURE = 0.84


def fold_shift(whole_VP: np.ndarray, folds_FVP: np.ndarray, fresh_FV: np.ndarray) -> np.ndarray:
    """(P,), never positive: the median difference of both, less what it may err.

    `whole_VP` is by the fit of all, `folds_FVP` by the others. `fresh_FV` is False where a fit
    lacks an image's neighbours, too: that is no matter of how many it has seen, and fresh images
    have no neighbours either. The median, as an image may be in the training split as well.
    """
    counts_V = fresh_FV.sum(0)
    told_V = counts_V > 0
    images = int(told_V.sum())
    # One image does not say how sure its difference is.
    if images < 2:
        return np.zeros(whole_VP.shape[1])
    differences_FVP = (whole_VP - folds_FVP) * fresh_FV[:, :, None]
    of_image_VP = differences_FVP.sum(0)[told_V] / counts_V[told_V, None]
    # SciPy takes half a second to import.
    from scipy.stats import binom

    # As in a sign test: the median of all such images is below this one of the largest differences.
    place = int(binom.ppf(1 - SURE, images, 0.5))
    shift_P: np.ndarray = np.minimum(np.sort(of_image_VP, 0)[::-1][place], 0.0)
    return shift_P
