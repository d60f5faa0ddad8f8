"""A device without memory: batches get smaller, and the results stay the same."""

import numpy as np
import pytest
import torch

from pipeline.errors import DeviceError
from pipeline.models.device import choose
from pipeline.models.out_of_memory import in_batches
from pipeline.models.proposals import SamProposals
from pipeline.models.settings import ProposalSettings
from pipeline.models.small_sam.build import small_sam
from pipeline.models.weights import store as weights
from pipeline.records import ForegroundMask

ROWS = torch.arange(37)


def room_for(limit: int, seen: list[int]):
    """A function that runs out of memory on more than `limit` rows."""

    def work(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part))
        if len(part) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
        return part * 2

    return work


@pytest.mark.parametrize("limit", [1, 2, 5, 36, 37, 64])
def test_all_rows_are_processed_once_in_order(limit):
    seen: list[int] = []
    results, batch = in_batches(ROWS, 64, room_for(limit, seen))
    assert torch.equal(torch.cat(results), ROWS * 2)
    assert batch <= max(limit, 64 if limit >= len(ROWS) else limit)
    assert sum(size for size in seen if size <= limit) == len(ROWS)


def test_no_room_for_one_row_is_an_error(tmp_path):
    with pytest.raises(DeviceError, match=r"^out of memory on cpu.* models\.device: cpu"):
        in_batches(ROWS, 8, room_for(0, []))


def test_other_errors_are_passed_on():
    def work(part: torch.Tensor) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        in_batches(ROWS, 8, work)


class LimitedProposals(SamProposals):
    """Proposals whose decoder runs out of memory when it gets more than nine prompts."""

    failures = 0

    def _decode_prompts(self, embedding, sparse, dense, min_iou):
        if len(sparse) > 9:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._decode_prompts(embedding, sparse, dense, min_iou)


def test_proposals_do_not_depend_on_the_memory_of_the_device():
    image_HW3 = np.full((96, 96, 3), 60, np.uint8)
    image_HW3[20:44, 16:40] = (220, 180, 40)
    image_HW3[56:80, 50:84] = (40, 120, 220)
    foreground = ForegroundMask(image_HW3.max(2) > 100, peak=1.0)
    compute, settings = choose("cpu", "fp32"), ProposalSettings(points=40)
    path = weights.require("bundled-sam")
    expected = SamProposals(small_sam(path), settings, compute)(image_HW3, foreground)
    maker = LimitedProposals(small_sam(path), settings, compute)
    for _ in range(2):
        found = maker(image_HW3, foreground)
        assert len(found.masks_NHW) == len(expected.masks_NHW) > 0
        np.testing.assert_array_equal(found.masks_NHW, expected.masks_NHW)
        np.testing.assert_allclose(found.scores_N, expected.scores_N, atol=0.01)
    assert 0 < maker.failures <= 4, "the batch size that fitted is not kept"
