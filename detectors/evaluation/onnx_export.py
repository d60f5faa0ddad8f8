"""ONNX export of a checkpoint: photographs in, scores and maps out, thresholds in the metadata.

    images  (batch, 3, height, width) uint8 RGB   decoded photographs of any one size
    score   (batch,) float32                      higher is more anomalous
    map     (batch, size, size) float32

All that `anomalysmith predict` does after decoding is part of the graph: both resizes (see
`detectors.evaluation.onnx_resize`), normalisation, scores and maps. The written file is run in
onnxruntime and compared with PyTorch in float32, at batch and image sizes other than the traced
ones; a file that disagrees is deleted.
"""

from pipeline import environment as _environment  # noqa: F401  isort: skip  first: no telemetry

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
from detectors.data.dataset import VersionDataset, collate
from detectors.data.resize import resize_images
from detectors.evaluation.onnx_resize import FileResize
from detectors.evaluation.results import thresholds_of
from detectors.scoring import stack_images
from detectors.training.checkpoint import Card, load
from pipeline.dataset.version import Version
from pipeline.errors import IntegrityError, UserError
from pipeline.imaging.decode import MIN_SIDE, resize_image
from pipeline.utils.file_hash import sha256_file
from pipeline.utils.files import named_disk_errors, replaced_by, require_writable

# Allowed difference, relative to the largest value that PyTorch gives on the same images. The same
# float32 sums in another order differ by about 1e-7 per operation; over dozens of layers that
# becomes 1e-6 to 1e-4. Ten times more leaves room for other kernels, and is far below a change that
# matters: scores of two normal images differ by percents.
TOLERANCE = 1e-3
# Batch, height and width of the trace, and batch sizes of the comparison with height and width over
# the stored ones. Other sizes than the traced ones reveal graphs in which one was fixed.
_TRACED = 2, 97, 113
_PROBES = (1, 1.0, 1.0), (3, 1.5, 1.5), (8, 1.2, 1.9)


@dataclass(frozen=True, slots=True)
class Exported:
    """The written file, and its largest relative differences from PyTorch over `images` probes.

    `notes` say by name of a threshold why it is missing, or what it cannot promise.
    """

    path: Path
    bytes: int
    sha256: str
    size: int
    images: int
    tolerance: float
    score_error: float
    map_error: float
    thresholds: dict[str, float]
    notes: dict[str, str]

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
    # Before minutes of tracing, not after them.
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file, such as {out / 'detector.onnx'}")
    out = replaced_by(out)
    require_writable(out.parent, by_libraries=True)
    # float32 on the CPU, which every runtime supports.
    restored = load(checkpoint, device="cpu", precision="fp32")
    detector, card = restored.detector.eval(), restored.card
    if not detector.exportable:
        raise UserError(
            f"{card.detector} cannot be exported: it finds parts by networks and rules, which are "
            "no graph of tensor operations; use `anomalysmith predict`"
        )
    size, stored_HW = detector.settings.size, card.version.image_size
    probes = [*synthetic_probes(stored_HW), *(version_probes(version) if version else [])]
    # Written under another name: `out` is replaced by a file that has passed the comparison.
    aside = out.with_name(f".{out.name}.tmp")
    try:
        with named_disk_errors(out.parent):
            out.parent.mkdir(parents=True, exist_ok=True)
            _write(detector, stored_HW, aside, _metadata(card, size))
        score_error, map_error = compare(aside, detector, stored_HW, probes)
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
        out, out.stat().st_size, sha256_file(out), size, images, tolerance, score_error, map_error,
        thresholds_of(card.calibration), dict(card.calibration.notes),
    )  # fmt: skip


def synthetic_probes(stored_HW: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """Batches (B, 3, H, W) uint8 of several sizes: smooth backgrounds with blobs and noise.

    Photographs have these features too; uniform noise would give feature maps unlike any image's.
    """
    # A generator of its own: the same images in every run, and no effect on others.
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for length, taller, wider in _PROBES:
        size_HW = round(stored_HW[0] * taller), round(stored_HW[1] * wider)
        # Coarse random colours, enlarged to a smooth background.
        cells = torch.rand(length, 3, 5, 5, generator=generator)
        background = nn.functional.interpolate(cells, size=size_HW, mode="bicubic")
        blobs = torch.rand(length, 1, 24, 24, generator=generator).gt(0.9).float()
        blobs = nn.functional.interpolate(blobs, size=size_HW)
        noise = torch.randn(length, 3, *size_HW, generator=generator) * 0.03
        images = (background * (1 - 0.6 * blobs) + noise).clamp(0, 1)
        batches.append((images * 255).round().to(torch.uint8))
    return batches


def version_probes(version: Version, most: int = 8) -> list[Tensor]:
    """Validation normals and validation samples of a version, at most `most` of each, as stored."""
    found = []
    for dataset, name in (
        (VersionDataset.normals(version, "validation"), "image"),
        (VersionDataset.pairs(version, "validation"), "edited"),
    ):
        if len(dataset):
            batch = collate(dataset.__getitems__(range(min(most, len(dataset)))))
            found.append(batch[name].clone())
    return found


def compare(
    path: Path, detector: Detector, stored_HW: tuple[int, int], probes: list[Tensor]
) -> tuple[float, float]:
    """The largest difference of scores and of maps, each relative to PyTorch's largest value.

    PyTorch gets each probe as `predict` would, had it read the probe from a file. UserError when
    the batch size of the graph is fixed, IntegrityError when it does not run.
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
    for probe in probes:
        images_B3HW = probe.contiguous()
        with torch.inference_mode():
            scores = detector(_as_predict(images_B3HW, stored_HW, detector.settings.size))
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


def _as_predict(images_B3HW: Tensor, stored_HW: tuple[int, int], size: int) -> Tensor:
    """What the detector gets of these images in `predict`: resized by Pillow, then by PyTorch."""
    pixels_BHW3 = images_B3HW.permute(0, 2, 3, 1).contiguous().numpy()
    stored = stack_images([resize_image(image_HW3, stored_HW) for image_HW3 in pixels_BHW3])
    return resize_images(stored, size)


class _FromFile(nn.Module):
    """Resizes and the detector, with a plain tuple as output, which the exporter can name."""

    def __init__(self, detector: Detector, stored_HW: tuple[int, int]) -> None:
        super().__init__()
        self.resize = FileResize(stored_HW, detector.settings.size)
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.detector(self.resize(images))
        return scores.image_B, scores.maps_BHW


def _write(
    detector: Detector, stored_HW: tuple[int, int], path: Path, metadata: Mapping[str, str]
) -> None:
    """Trace the detector and save the graph with its metadata as one file."""
    # Pixel values do not matter for a trace.
    length, height, width = _TRACED
    example = torch.zeros(length, 3, height, width, dtype=torch.uint8)
    # The exporter needs upper bounds: 4096 images exceed any sensible batch, 65535 px any JPEG.
    dim = torch.export.Dim
    sides = {2: dim("height", min=MIN_SIDE, max=65535), 3: dim("width", min=MIN_SIDE, max=65535)}
    with _quiet() as output:
        try:
            program = torch.onnx.export(
                _FromFile(detector, stored_HW).eval(), (example,), dynamo=True,
                input_names=["images"], output_names=["score", "map"],
                dynamic_shapes={"images": {0: dim("batch", min=1, max=4096), **sides}},
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
        "anomalysmith.threshold_notes": json.dumps(card.calibration.notes),
        # Map values at which heat overlays start and saturate; null without held-out normals.
        "anomalysmith.heat": json.dumps(card.calibration.heat),
        "anomalysmith.licence": card.version.licence,
        "anomalysmith.inputs": "images: (batch, 3, height, width) uint8 RGB, any size",
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
