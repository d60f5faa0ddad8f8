"""A drill without a GPU: models that fail as on a full one, for batches above a size."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.faults.drill import Outcome, draw_photographs
from pipeline.imaging.decode import load_image
from pipeline.models.device import choose
from pipeline.models.proposals import SamProposals
from pipeline.models.settings import ProposalSettings
from pipeline.models.small_sam.build import small_sam
from pipeline.models.weights import store as weights
from pipeline.records import ForegroundMask

ROOM = 9


class Cramped(torch.nn.Module):
    """A prompt encoder for which more prompts than `room` do not fit into memory."""

    def __init__(self, encoder: torch.nn.Module, room: int) -> None:
        super().__init__()
        self.encoder, self.room, self.failures = encoder, room, 0

    def forward(
        self, points: tuple[torch.Tensor, torch.Tensor], boxes: None, masks: None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if len(points[0]) > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return self.encoder(points, boxes, masks)

    def get_dense_pe(self) -> torch.Tensor:
        return self.encoder.get_dense_pe()


def out_of_memory(work: Path) -> Outcome:
    """Proposals on a cramped device are those of a roomy one, in smaller batches."""
    image_HW3 = load_image(draw_photographs(work / "parts", 1) / "000.png")
    foreground = ForegroundMask(image_HW3.max(2) < 150, peak=1.0)
    path, settings = weights.require("bundled-sam"), ProposalSettings()
    roomy = SamProposals(small_sam(path), settings, choose("cpu"))(image_HW3, foreground)
    sam = small_sam(path)
    sam.prompt_encoder = cramped = Cramped(sam.prompt_encoder, ROOM)
    found = SamProposals(sam, settings, choose("cpu"))(image_HW3, foreground)
    same = np.array_equal(found.masks_NHW, roomy.masks_NHW) and cramped.failures > 0
    happened = f"{cramped.failures} batches too large, then the same {len(found)} proposals"
    return Outcome("memory", bool(same), happened, "nothing" if same else "proposals differ")
