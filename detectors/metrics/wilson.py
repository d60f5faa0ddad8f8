"""Wilson's score interval of a share of images, such as the false-alarm rate on good ones.

Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927). The
interval stays inside [0, 1] and keeps a width at 0 of n and n of n. It treats the images as
independent and the threshold as given.
"""

import math
from statistics import NormalDist

from detectors.metrics.bootstrap import LEVEL, Interval

# 1.96: the normal quantile of a two-sided interval.
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def wilson(found: int, of: int) -> Interval:
    """Wilson's interval of the share `found / of`; (0, 1) where there is no image."""
    if not of:
        return 0.0, 1.0
    share, spread = found / of, Z * Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    # The exact ends at 0 of n and n of n, which rounding would miss by 1e-17.
    return (
        max(0.0, middle - half) if found else 0.0,
        min(1.0, middle + half) if found < of else 1.0,
    )
