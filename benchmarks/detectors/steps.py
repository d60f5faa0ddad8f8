"""A detector whose training steps and inference are called directly, and timing in turn."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping

import torch

from detectors.base import Batch, Detector
from detectors.registry import Profile, assemble, configure
from pipeline.models.device import Compute

# Runs something once and returns its seconds.
Call = Callable[[], float]
# Rounds that count, after one warm-up round.
REPEATS = 2
PAPER_STEPS = 70_000


class TimedDetector:
    """A detector with random weights and images, and the trainer's step without data loading."""

    def __init__(
        self,
        name: str,
        changes: Mapping[str, object],
        compute: Compute,
        batch_size: int = 1,
        profile: Profile = "paper",
    ) -> None:
        recipe = configure(name, profile, changes)
        torch.manual_seed(0)
        self.compute = compute
        detector = assemble(name, recipe.settings, weights=False)
        self.detector: Detector = detector.to(compute.device).to(memory_format=torch.channels_last)
        size = recipe.settings.size
        images = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8)
        images = images.to(compute.device).contiguous(memory_format=torch.channels_last)
        # The index lets detectors cache the teacher's features of an image, as in training.
        index = torch.arange(batch_size, device=compute.device)
        self.batch: Batch = {"image": images, "index": index}
        # Detectors that train on pairs need an edited image and its mask as well.
        if detector.view == "sources":
            masks = torch.zeros(batch_size, size, size, dtype=torch.uint8, device=compute.device)
            masks[:, size // 4 : size // 2, size // 4 : size // 2] = 1
            self.batch |= {"original": images, "edited": images.flip(3), "mask": masks,
                           "label": index * 0 + 1, "kind": index * 0}  # fmt: skip
        with torch.no_grad(), compute.autocast():
            # Statistics of the teacher's features, which the losses need.
            self.detector.eval().prepare([{"image": images, "index": index}])
        self.optimizer, self.schedule = self.detector.optimizer(PAPER_STEPS)
        self.done = 0

    def step(self) -> float:
        """Run one training step; its seconds."""
        started = self._now()
        self.detector.train()
        with self.compute.autocast():
            losses = self.detector.losses(self.batch, self.done, PAPER_STEPS)
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.done += 1
        return self._now() - started

    def infer(self) -> float:
        """Score the batch once; the seconds."""
        started = self._now()
        self.detector.eval()
        with torch.inference_mode(), self.compute.autocast():
            self.detector(self.batch["image"])
        return self._now() - started

    def _now(self) -> float:
        if self.compute.device.type == "cuda":
            # CUDA calls return before they are done.
            torch.cuda.synchronize()
            return time.perf_counter()
        return clock()


def clock() -> float:
    """Processor seconds with one thread; wall seconds with several, whose times would add up."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def in_turn(calls: dict[object, Call], repeats: int = REPEATS) -> dict[object, float]:
    """Median seconds of each call, taking turns; the first round is not counted."""
    times: dict[object, list[float]] = {name: [] for name in calls}
    for number in range(1 + repeats):
        for name, call in calls.items():
            print(f"round {number} of {repeats}: {name}", file=sys.stderr, flush=True)
            times[name].append(call())
    return {name: statistics.median(found[1:]) for name, found in times.items()}
