"""Kept rejects come back as they were."""

import numpy as np
from small_results import image_result

from pipeline.dataset.rejects import RejectPool

TURNS = [("missing", "seam"), ("extra", ""), ("missing", "rare"), ("extra", "-")]


def test_rejects_come_back_by_image_in_order():
    pool, results = RejectPool(limit=3), [image_result(n, turns=TURNS) for n in range(3)]
    for number, result in enumerate(results):
        for turn in (0, 2):
            pool.offer(result, result.attempts[turn], 10 * number + turn)
    # Six are offered for three places; both reasons keep some.
    found = list(pool.by_image())
    assert sum(len(indices) for _, indices in found) == 3
    for result, indices in found:
        source = next(one for one in results if one.name == result.name)
        assert np.array_equal(result.pixels_HW3, source.pixels_HW3)
        assert np.array_equal(result.foreground.mask_HW, source.foreground.mask_HW)
        assert np.array_equal(result.proposals.masks_NHW, source.proposals.masks_NHW)
        assert [a.verdict for a in result.attempts] == [a.verdict for a in source.attempts]
        kept = [a for a in result.attempts if a.sample is not None]
        assert [a.number for a in kept] == [index % 10 for index in indices]
        for attempt in kept:
            expected = source.attempts[attempt.number].sample
            assert expected is not None
            assert attempt.sample.edit == expected.edit
            assert np.array_equal(attempt.sample.pixels_HW3, expected.pixels_HW3)
            assert np.array_equal(attempt.sample.change_HW, expected.change_HW)
            assert np.array_equal(attempt.sample.object_HW, expected.object_HW)
    assert list(pool.by_image()) == []
