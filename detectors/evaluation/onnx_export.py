"""ONNX export of a checkpoint: uint8 images in, scores and maps out, thresholds in the metadata.

    images  (batch, 3, size, size) uint8 RGB      resized as `anomalysmith predict` does
    score   (batch,) float32                      higher is more anomalous
    map     (batch, size, size) float32

Normalisation is part of the graph. The written file is run in onnxruntime and compared with PyTorch
in float32, at batch sizes other than the traced one; a file that disagrees is deleted.
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
from pipeline.utils.files import named_disk_errors
from pipeline.utils.hashing import sha256_file

# Allowed difference, relative to the largest value that PyTorch gives on the same images. The same
# float32 sums in another order differ by about 1e-7 per operation; over dozens of layers that
# becomes 1e-6 to 1e-4. Ten times more leaves room for other kernels, and is far below a change that
# matters: scores of two normal images differ by percents.
TOLERANCE = 1e-3
# Batch size of the trace, and those of the comparison. 1 and odd sizes reveal graphs in which the
# batch size was fixed.
_TRACED, _PROBES = 2, (1, 3, 8)


@dataclass(frozen=True, slots=True)
class Exported:
    """The written file, and its largest relative differences from PyTorch over `images` probes."""

    path: Path
    bytes: int
    sha256: str
    size: int
    images: int
    tolerance: float
    score_error: float
    map_error: float

    def to_json(self) -> dict[str, Any]:
        """All fields as JSON."""
        return asdict(self) | {"path": str(self.path)}


def export(
    checkpoint: Path, out: Path, tolerance: float = TOLERANCE, version: Version | None = None
) -> Exported:
    """Write a checkpoint's detector to the file `out` and compare it with PyTorch.

    The comparison uses synthetic images and, with a version, its validation normals and samples.
    IntegrityError when a score or a map differs by more than `tolerance`; no file is left then.
    UserError when the detector cannot be traced, or when `out` cannot be written.
    """
    # float32 on the CPU, which every runtime supports.
    restored = load(checkpoint, device="cpu", precision="fp32")
    detector, card = restored.detector.eval(), restored.card
    size = detector.settings.size
    probes = [*synthetic_probes(size), *(version_probes(version, size) if version else [])]
    # Written under another name: `out` is replaced by a file that has passed the comparison.
    aside = out.with_name(f".{out.name}.tmp")
    try:
        with named_disk_errors(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
            _write(detector, aside, _metadata(card, size))
        score_error, map_error = compare(aside, detector, probes)
        for what, error in (("scores", score_error), ("maps", map_error)):
            # `not <=` also rejects NaN.
            if not error <= tolerance:
                raise IntegrityError(
                    f"{out}: onnxruntime's {what} differ from PyTorch's by {error:.2g} of the "
                    f"largest, allowed is {tolerance:.2g}; the file was not kept; a larger "
                    "tolerance accepts it, and its thresholds may then not hold"
                )
        with named_disk_errors(out.parent):
            aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    images = sum(map(len, probes))
    return Exported(
        out, out.stat().st_size, sha256_file(out), size, images, tolerance, score_error, map_error
    )


def synthetic_probes(size: int, seed: int = 0) -> list[Tensor]:
    """Batches of several sizes: (B, 3, size, size) uint8 smooth backgrounds with blobs and noise.

    Photographs have these features too; uniform noise would give feature maps unlike any image's.
    """
    # A generator of its own: the same images in every run, and no effect on others.
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for length in _PROBES:
        # Coarse random colours, enlarged to a smooth background.
        cells = torch.rand(length, 3, 5, 5, generator=generator)
        background = nn.functional.interpolate(cells, size=(size, size), mode="bicubic")
        blobs = torch.rand(length, 1, 24, 24, generator=generator).gt(0.9).float()
        blobs = nn.functional.interpolate(blobs, size=(size, size))
        noise = torch.randn(length, 3, size, size, generator=generator) * 0.03
        images = (background * (1 - 0.6 * blobs) + noise).clamp(0, 1)
        batches.append((images * 255).round().to(torch.uint8))
    return batches


def version_probes(version: Version, size: int, most: int = 8) -> list[Tensor]:
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
    """The largest difference of scores and of maps, each relative to PyTorch's largest value.

    UserError when the batch size of the graph is fixed, IntegrityError when it does not run.
    """
    # Imported here, because it takes a second and only this function needs it.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Errors only: warnings about optimisations would go to the user's terminal.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # A symbolic dimension is a name, a fixed one a number.
    if isinstance(batch := session.get_inputs()[0].shape[0], int):
        raise UserError(
            f"{type(detector).__name__} cannot be written as ONNX: tracing fixed its batch to "
            f"{batch}; let its forward take the batch as -1, not as a number"
        )
    theirs, ours = [], []
    for images_B3HW in probes:
        with torch.inference_mode():
            scores = detector(images_B3HW)
        # Scores and maps in the order of the outputs.
        ours.append([tensor.float().numpy() for tensor in scores])
        try:
            theirs.append(session.run(["score", "map"], {"images": images_B3HW.numpy()}))
        # onnxruntime's exceptions have no common base class.
        except Exception as error:
            first = str(error).partition("\n")[0]
            raise IntegrityError(f"onnxruntime cannot run the written file: {first}") from error
    score_error, map_error = (
        _relative_error([one[part] for one in ours], [one[part] for one in theirs])
        for part in (0, 1)
    )
    return score_error, map_error


def _relative_error(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest absolute difference over the largest value of ours; inf for other shapes."""
    largest = max(float(np.abs(one).max()) for one in ours)
    errors = [
        float(np.abs(one - other).max()) if one.shape == other.shape else np.inf
        for one, other in zip(ours, theirs, strict=True)
    ]
    # np.max keeps NaN, which the caller rejects; Python's max may not.
    return float(np.max(errors)) / (largest or 1.0)


class _TupleOutput(nn.Module):
    """The detector with a plain tuple as output, which the exporter can name."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.detector(images)
        return scores.image_B, scores.maps_BHW


def _write(detector: Detector, path: Path, metadata: Mapping[str, str]) -> None:
    """Trace the detector and save the graph with its metadata as one file."""
    size = detector.settings.size
    # Pixel values do not matter for a trace.
    example = torch.zeros(_TRACED, 3, size, size, dtype=torch.uint8)
    with _quiet() as output:
        try:
            program = torch.onnx.export(
                _TupleOutput(detector).eval(), (example,), dynamo=True,
                input_names=["images"], output_names=["score", "map"],
                # The exporter needs an upper bound; 4096 images exceed any sensible batch.
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=4096)}},
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            # The cause names the operation; the exporter wraps it in pages of advice.
            first = str(error.__cause__ or error).strip().partition("\n")[0]
            raise UserError(
                f"{type(detector).__name__} cannot be written as ONNX: {first}"
            ) from error
        if program is None:
            raise UserError(f"the exporter gave no graph: {output.getvalue()[-200:]}")
        # Metadata before saving: one self-contained file.
        program.model.metadata_props.update(metadata)
        program.save(str(path), external_data=False)


def _metadata(card: Card, size: int) -> dict[str, str]:
    """What a program needs besides the graph, as text; an image counts where `score >=
    threshold`."""
    return {
        # Keys are read by programs outside of this repository.
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
    """Capture what the exporter prints, logs and warns; users cannot act on it."""
    output, level = io.StringIO(), logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        redirect_stdout(output),
        redirect_stderr(output),
    ):
        # The exporter writes to all three: warnings, logging and both streams.
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield output
        finally:
            logging.disable(level)
