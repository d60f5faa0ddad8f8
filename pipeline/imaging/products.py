"""Products and lengths of vectors of three, as of colours.

NumPy's own sum over so short an axis is ten times slower than two sums of whole arrays.

Shapes: ... any, of all arrays of a call alike; 3 the components of a vector.
"""

import numpy as np


def summed(values_3: np.ndarray) -> np.ndarray:
    """The sum over the last axis, (..., 3) to (...)."""
    total: np.ndarray = values_3[..., 0] + values_3[..., 1]
    total += values_3[..., 2]
    return total


def products(one_3: np.ndarray, other_3: np.ndarray) -> np.ndarray:
    """Scalar products, (..., 3) to (...)."""
    return summed(one_3 * other_3)


def lengths(vectors_3: np.ndarray) -> np.ndarray:
    """Lengths, (..., 3) to (...)."""
    return np.sqrt(products(vectors_3, vectors_3))
