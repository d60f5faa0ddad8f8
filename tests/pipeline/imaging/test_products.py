"""Products of vectors of three are those of NumPy."""

import numpy as np
import pytest

from pipeline.imaging.products import lengths, products, summed

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(3,), (7, 3), (4, 5, 3)])
def test_they_are_those_of_numpy(shape):
    one, other = RNG.normal(0, 50, (2, *shape)).astype(np.float32)
    np.testing.assert_allclose(summed(one), one.sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(products(one, other), np.vecdot(one, other), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(lengths(one), np.linalg.norm(one, axis=-1), rtol=1e-5)


def test_what_is_given_stays_as_it_is():
    one = RNG.normal(0, 50, (4, 5, 3))
    before = one.copy()
    lengths(one)
    assert np.array_equal(one, before)
