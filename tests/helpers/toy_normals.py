"""Toy images of a normal product, with batches, training and ONNX export for small detectors."""

import warnings
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from detectors.base import Batch, Detector

D = TypeVar("D", bound=Detector)


def toy_images(count: int, size: int = 64, seed: int = 0, dot: bool = True) -> Tensor:
    """(B, 3, size, size) uint8: a bright square with a dark dot at a random place, and noise."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((count, 3, size, size), 70.0)
    images[:, :, size // 6 : -size // 6, size // 6 : -size // 6] = 190
    if dot:
        for image in images:
            top, left = torch.randint(size // 3, size // 2, (2,), generator=generator).tolist()
            image[:, top : top + size // 8, left : left + size // 8] = 40
    images += 6 * torch.randn(images.shape, generator=generator)
    whole = images.clamp(0, 255).to(torch.uint8)
    return whole.contiguous(memory_format=torch.channels_last)


class ToyBatches:
    """Batches of the view `normals`; can be iterated any number of times."""

    def __init__(self, images: Tensor, batch_size: int = 3) -> None:
        self.images, self.batch_size = images, batch_size

    def __iter__(self) -> Iterator[Batch]:
        for at in range(0, len(self.images), self.batch_size):
            part = self.images[at : at + self.batch_size]
            yield {"image": part, "index": torch.arange(at, at + len(part))}


def overfit(detector: Detector, images: Tensor, steps: int, until: float = 0.0) -> list[float]:
    """Prepare a detector and train it on one batch of all images; the loss of every step.

    Stops early when the mean of the last five losses is below `until` times the first.
    """
    batch = next(iter(ToyBatches(images, len(images))))
    detector.prepare(ToyBatches(images))
    # A schedule longer than the training, so the learning rate does not drop.
    optimizer, schedule = detector.optimizer(10 * steps)
    detector.train()
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        loss = torch.stack(list(detector.losses(batch, step, steps).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) >= 5 and sum(losses[-5:]) < 5 * until * losses[0]:
            break
    detector.eval()
    return losses


@torch.no_grad()
def judged(
    detector: D,
    train: Tensor,
    held_out: Tensor,
    samples: Tensor | None = None,
    labels_M: Tensor | None = None,
) -> D:
    """Let a fitted detector calibrate and fuse, as the trainer does, and return it."""
    detector.eval()
    detector.calibrate(ToyBatches(train), ToyBatches(held_out))
    normals_NP = detector.parts(held_out).double()
    pairs_MP = normals_NP[:0] if samples is None else detector.parts(samples).double()
    labels_M = torch.zeros(0, dtype=torch.int64) if labels_M is None else labels_M
    detector.fuse(normals_NP, pairs_MP, labels_M, torch.zeros_like(labels_M))
    return detector


class _TupleOutput(nn.Module):
    """A detector with a plain tuple as output, which the exporter understands."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.detector(images)
        return scores.image_B, scores.maps_BHW


def onnx_scores(detector: Detector, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Image scores and maps from onnxruntime; the model is traced at another batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _TupleOutput(detector).eval(), (images[:2],), dynamo=True, verbose=False,
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=64)}},
        )  # fmt: skip
    assert program is not None
    model = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    score_B, maps_BHW = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return score_B, maps_BHW
