"""An out-of-memory drill without a GPU: a model that fails for batches above a size."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.faults.drill import Outcome, draw_images
from pipeline.imaging.decode import load_image
from pipeline.models.device import choose
from pipeline.models.proposals import SamProposals
from pipeline.models.settings import ProposalSettings
from pipeline.models.small_sam.build import small_sam
from pipeline.models.weights import store as weights
from pipeline.records import ForegroundMask

# Prompts that fit: not a power of two, so that batches are halved several times.
ROOM = 9


class LimitedProposals(SamProposals):
    """Proposals whose decoder runs out of memory for more than ROOM prompts."""

    failures = 0

    def _decode_prompts(
        self, embedding: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor, min_iou: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if len(sparse) > ROOM:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return super()._decode_prompts(embedding, sparse, dense, min_iou)


def out_of_memory(work: Path) -> Outcome:
    """Proposals with little memory equal those with enough memory, in smaller batches."""
    image_HW3 = load_image(draw_images(work / "parts", 1) / "000.png")
    foreground = ForegroundMask(image_HW3.max(2) < 150, peak=1.0)
    # The bundled small SAM on the CPU; the error is simulated in its decoder.
    path, settings = weights.require("bundled-sam"), ProposalSettings()
    expected = SamProposals(small_sam(path), settings, choose("cpu"))(image_HW3, foreground)
    limited = LimitedProposals(small_sam(path), settings, choose("cpu"))
    found = limited(image_HW3, foreground)
    # It must have failed at least once, or nothing was tested.
    same = np.array_equal(found.masks_NHW, expected.masks_NHW) and limited.failures > 0
    happened = f"{limited.failures} batches too large, then the same {len(found)} proposals"
    return Outcome("memory", bool(same), happened, "nothing" if same else "proposals differ")
