"""A checkpoint as one ONNX file: uint8 images in, scores and maps out, thresholds in its metadata.

    images  (batch, 3, size, size) uint8 RGB      resized as `anomalysmith predict` does
    score   (batch,) float32                      higher is more anomalous
    map     (batch, size, size) float32

Normalisation is inside. The written file is opened again and compared with PyTorch in float32, at
other batch sizes than the one it was traced with; a file that disagrees is not kept.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detectors.base import Detector
from detectors.data.batches import Feed
from detectors.data.dataset import VersionDataset
from detectors.evaluation.results import thresholds_of
from detectors.training.checkpoint import Card, load
from pipeline.dataset.version import Version
from pipeline.errors import IntegrityError, UserError
from pipeline.utils.files import naming_the_disk
from pipeline.utils.hashing import sha256_file

TOLERANCE = 1e-3
"""Allowed difference, as a share of the largest value that PyTorch gives on the same images.

The same float32 sums in another order differ by about 1e-7 per operation; dozens of layers make
that 1e-6 to 1e-4. Ten times more leaves room for other kernels, and is far less than what moves a
verdict: scores of two normal images differ by percents.
"""
_TRACED, _PROBES = 2, (1, 3, 8)


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and how far it lies from PyTorch: the largest differences seen."""

    path: Path
    bytes: int
    sha256: str
    size: int
    images: int
    tolerance: float
    score_error: float
    map_error: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"path": str(self.path)}


def export(
    checkpoint: Path, out: Path, tolerance: float = TOLERANCE, version: Version | None = None
) -> Exported:
    """Write a checkpoint's detector to the file `out` and compare it with PyTorch.

    The probes are drawn, or real: with a version, its validation normals and their edits join
    them. IntegrityError when a score or a map is off by more than `tolerance`; the file is then
    gone. UserError when the detector cannot be traced, or when `out` cannot be written.
    """
    restored = load(checkpoint, device="cpu", precision="fp32")
    detector, card = restored.detector.eval(), restored.card
    size = detector.settings.size
    probes = [*drawn_probes(size), *(real_probes(version, size) if version else [])]
    aside = out.with_name(f".{out.name}.tmp")
    try:
        with naming_the_disk(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
            _write(detector, aside, _metadata(card, size))
        score_error, map_error = compare(aside, detector, probes)
        for what, error in (("scores", score_error), ("maps", map_error)):
            if not error <= tolerance:
                raise IntegrityError(
                    f"{out}: onnxruntime's {what} differ from PyTorch's by {error:.2g} of the "
                    f"largest, allowed is {tolerance:.2g}; the file was not kept; a larger "
                    "tolerance accepts it, and its thresholds may then not hold"
                )
        with naming_the_disk(out.parent):
            aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    images = sum(map(len, probes))
    return Exported(
        out, out.stat().st_size, sha256_file(out), size, images, tolerance, score_error, map_error
    )


def drawn_probes(size: int, seed: int = 0) -> list[Tensor]:
    """Batches of several lengths: smooth grounds with blots and noise, as photographs have."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for length in _PROBES:
        cells = torch.rand(length, 3, 5, 5, generator=generator)
        ground = nn.functional.interpolate(cells, size=(size, size), mode="bicubic")
        blots = torch.rand(length, 1, 24, 24, generator=generator).gt(0.9).float()
        blots = nn.functional.interpolate(blots, size=(size, size))
        grain = torch.randn(length, 3, size, size, generator=generator) * 0.03
        mixed = (ground * (1 - 0.6 * blots) + grain).clamp(0, 1)
        batches.append((mixed * 255).round().to(torch.uint8))
    return batches


def real_probes(version: Version, size: int, most: int = 8) -> list[Tensor]:
    """Validation normals and validation samples of a version, at most `most` of each."""
    found = []
    for dataset, name in (
        (VersionDataset.normals(version, "validation"), "image"),
        (VersionDataset.pairs(version, "validation"), "edited"),
    ):
        if len(dataset):
            batch = next(iter(Feed(dataset, min(most, len(dataset)), size, torch.device("cpu"))))
            found.append(batch[name].clone())
    return found


def compare(path: Path, detector: Detector, probes: list[Tensor]) -> tuple[float, float]:
    """The largest difference of scores and of maps, each as a share of PyTorch's largest value."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if isinstance(batch := session.get_inputs()[0].shape[0], int):
        raise UserError(
            f"{type(detector).__name__} cannot be written as ONNX: tracing fixed its batch to "
            f"{batch}; let its forward take the batch as -1, not as a number"
        )
    theirs, ours = [], []
    for images_B3HW in probes:
        with torch.inference_mode():
            scores = detector(images_B3HW)
        ours.append([tensor.float().numpy() for tensor in scores])
        try:
            theirs.append(session.run(["score", "map"], {"images": images_B3HW.numpy()}))
        except Exception as error:  # onnxruntime's errors have no base of their own
            first = str(error).partition("\n")[0]
            raise IntegrityError(f"onnxruntime cannot run what was written: {first}") from error
    score_error, map_error = (
        _largest_share([one[part] for one in ours], [one[part] for one in theirs])
        for part in (0, 1)
    )
    return score_error, map_error


def _largest_share(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    largest = max(float(np.abs(one).max()) for one in ours)
    errors = [
        float(np.abs(one - other).max()) if one.shape == other.shape else np.inf
        for one, other in zip(ours, theirs, strict=True)
    ]
    return float(np.max(errors)) / (largest or 1.0)  # NaN stays NaN and is refused


class _Plain(nn.Module):
    """The detector with its record of results taken apart."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.detector(images)
        return scores.image_B, scores.maps_BHW


def _write(detector: Detector, path: Path, metadata: Mapping[str, str]) -> None:
    size = detector.settings.size
    example = torch.zeros(_TRACED, 3, size, size, dtype=torch.uint8)
    with _quiet() as said:
        try:
            program = torch.onnx.export(
                _Plain(detector).eval(), (example,), dynamo=True,
                input_names=["images"], output_names=["score", "map"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            first = str(error.__cause__ or error).strip().partition("\n")[0]
            raise UserError(
                f"{type(detector).__name__} cannot be written as ONNX: {first}"
            ) from error
        if program is None:
            raise UserError(f"the exporter gave nothing: {said.getvalue()[-200:]}")
        program.model.metadata_props.update(metadata)
        program.save(str(path), external_data=False)


def _metadata(card: Card, size: int) -> dict[str, str]:
    """What a program needs beside the graph, as text; thresholds hold where `score >= line`."""
    return {
        "anomalysmith.detector": card.detector,
        "anomalysmith.category": card.version.category,
        "anomalysmith.size": str(size),
        "anomalysmith.checkpoint": card.sha256,
        "anomalysmith.version_digest": card.version.digest,
        "anomalysmith.stored_size": json.dumps(card.version.image_size),
        "anomalysmith.thresholds": json.dumps(thresholds_of(card.calibration)),
        "anomalysmith.licence": card.version.licence,
        "anomalysmith.inputs": "images: (batch, 3, size, size) uint8 RGB, bilinear with antialias",
        "anomalysmith.outputs": "score: (batch,) float32; map: (batch, size, size) float32",
    }


@contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Hold back what the exporter prints, logs and warns; it is not for the user."""
    said, level = io.StringIO(), logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        redirect_stdout(said),
        redirect_stderr(said),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield said
        finally:
            logging.disable(level)
