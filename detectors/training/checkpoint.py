"""A trained detector as a folder: `checkpoint.json`, and every tensor in `model.safetensors`.

    save(folder, detector, card)
    restored = load(folder)
    with torch.inference_mode(), restored.compute.autocast():
        scores = restored.detector(images_B3HW)

The JSON is written last and holds the SHA-256 of the tensors, so a reader sees a whole checkpoint
or none. Neither file can carry code. Shapes: B batch; H, W = `size`; 3 colour (RGB).
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from detectors.base import Detector, DetectorSettings
from detectors.registry import assemble, entry
from detectors.training.calibration import Calibration
from detectors.training.held_out import HeldOut, read_held_out
from detectors.training.precision import Precision, resolve
from detectors.training.precision_parity import Parity
from pipeline.dataset.version import Version
from pipeline.errors import DeviceError, IntegrityError, UserError
from pipeline.models.device import Compute
from pipeline.settings import Settings
from pipeline.utils.files import named_disk_errors, write_atomic
from pipeline.utils.hashing import digest_of
from pipeline.utils.yaml_lines import first_error

# Raised when older releases could no longer read the card.
FORMAT = 1
# File names inside a checkpoint.
CARD, MODEL = "checkpoint.json", "model.safetensors"
# The advice at the end of errors about damaged files.
REPAIR = "restore the checkpoint from a copy, or delete its folder and train again"


class VersionCard(Settings):
    """The dataset version that a detector was trained on."""

    name: str
    digest: str
    category: str
    image_size: tuple[int, int]
    licence: str

    @classmethod
    def of(cls, version: Version) -> "VersionCard":
        return cls(
            name=version.name,
            digest=version.digest,
            category=version.category,
            image_size=version.image_size,
            # Versions of older releases state no licence.
            licence=version.index.get("licence", ""),
        )


class FileCard(Settings):
    """An input file of the training: its name and SHA-256, but not its path, which may be
    private."""

    name: str
    sha256: str


class ReviewCard(Settings):
    """The decisions of people that a training used; ids of samples are those of its version.

    `rejected` samples were left out, `unsure` ones counted `unsure_weight` where the detector
    trains on samples. `sha256` is that of the file of decisions.
    """

    sha256: str
    versions: tuple[str, ...]
    reviewed: int
    rejected: tuple[str, ...]
    unsure: tuple[str, ...]
    unsure_weight: float

    def effect(self) -> str:
        """The digest of what the decisions change: others that change nothing more have it, too."""
        return digest_of([list(self.rejected), list(self.unsure), self.unsure_weight])


class ValidationPass(Settings):
    """Loss and AUROC on the validation split after `step` steps; None where they do not exist."""

    step: int
    loss: float | None = None
    auroc: float | None = None
    auroc_by_kind: dict[str, float] = Field(default_factory=dict)


class Card(Settings):
    """Everything about a checkpoint but its tensors.

    `steps` were done, `schedule.steps` were planned. `teacher` and `start` are the files that were
    read before the first step, `sha256` is the digest of `model.safetensors`. `calibration` belongs
    to scores in `precision`; where that is bf16, `calibration_fp32` belongs to the same detector's
    scores in fp32, whose thresholds differ. `load` returns the one that fits.
    """

    # Field names are keys of checkpoint.json and must not change.
    format: int = FORMAT
    detector: str
    settings: dict[str, Any]
    schedule: dict[str, Any]
    version: VersionCard
    teacher: FileCard | None = None
    start: FileCard | None = None
    reviews: ReviewCard | None = None
    seed: int
    processes: int = 1
    steps: int
    best_step: int
    stopped_early: bool = False
    seconds: float
    precision: Precision
    device: str
    software: dict[str, str]
    calibration: Calibration
    calibration_fp32: Calibration | None = None
    parity: Parity
    history: tuple[ValidationPass, ...] = ()
    parameters: int
    sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """A loaded detector, in evaluation mode on its device, with its card.

    `held_out` are the scores that its thresholds rest on.
    """

    detector: Detector
    card: Card
    compute: Compute
    held_out: HeldOut | None = None


def save(folder: Path, detector: Detector, card: Card) -> Card:
    """Write a checkpoint; returns the card with the digest of the tensors."""
    content = bytes_of(snapshot(detector))
    card = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    # The card goes last: it makes the folder a checkpoint.
    text = json.dumps(card.model_dump(mode="json"), indent=1, allow_nan=False)
    # A full disk becomes an error that names this folder.
    with named_disk_errors(folder):
        write_atomic(folder / MODEL, content)
        write_atomic(folder / CARD, text.encode() + b"\n")
    return card


def load(folder: Path, device: str = "auto", precision: str = "auto") -> Restored:
    """Read a checkpoint and check every byte of it.

    Precision `auto` is that of the training, in which the thresholds were computed, where this
    machine supports it. UserError for a folder that is no checkpoint of this release,
    IntegrityError for a damaged file.
    """
    folder = Path(folder)
    card = read_card(folder)
    # The digest is checked before the bytes are parsed.
    state = read_tensors(folder / MODEL, card.sha256)
    # Without weights: the state fills every tensor, the teacher included.
    detector = assemble(card.detector, settings_of(card), weights=False)
    load_state(detector, state, folder)
    compute = _like_training(card, device) if precision == "auto" else resolve(device, precision)
    # The memory layout of the training; convolutions are faster in it.
    detector.to(device=compute.device).to(memory_format=torch.channels_last)
    # Trained in bf16 but scored in fp32: take the thresholds that were computed in fp32.
    held = read_held_out(folder)
    if card.calibration_fp32 is not None and not compute.reduced:
        card = card.model_copy(update={"calibration": card.calibration_fp32})
        # The stored scores are those of the training's precision.
        held = None
    return Restored(detector.eval(), card, compute, held)


def read_card(folder: Path) -> Card:
    """The card of a checkpoint; reads no tensor."""
    path = folder / CARD
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is no checkpoint: it holds no {CARD}; name the folder of a finished "
            "`train --out`"
        ) from None
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}; {REPAIR}") from None
    # The format is checked before the fields, since those of a newer format would look damaged.
    number = content.get("format") if isinstance(content, dict) else None
    if number != FORMAT:
        raise UserError(f"{folder} has checkpoint format {number}, this release reads {FORMAT}")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        fault = first_error(error, "content", show_input=False)
        raise IntegrityError(f"{path} is damaged: {fault}; {REPAIR}") from None


def settings_of(card: Card) -> DetectorSettings:
    """The card's settings in the detector's own class; UserError when this release lacks some."""
    # Every profile of a detector has the same settings class.
    kind = type(entry(card.detector).paper[0])
    try:
        return kind.model_validate(card.settings)
    except ValidationError as error:
        fault = first_error(error, "content", show_input=False)
        raise UserError(
            f"the checkpoint of {card.detector} was made by another release: {fault}; "
            "train again or use that release"
        ) from None


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; IntegrityError unless it has this digest."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(f"{path} is missing; {REPAIR}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise IntegrityError(
            f"{path} is damaged: expected SHA-256 {sha256[:12]}…, found {found[:12]}…; {REPAIR}"
        )
    return tensors_of(content)


def load_state(detector: Detector, state: dict[str, Tensor], folder: Path) -> None:
    """Copy a state dict into a detector; UserError names the tensors that do not fit."""
    # torch lists every key in its message; users get the first of each group.
    wanted = set(detector.state_dict())
    lacking, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted)
    # First by name, since shapes can only be compared for tensors of both sides.
    reason = "; ".join(
        f"{word} {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for word, names in (("it lacks", lacking), ("it has an unknown", unknown))
        if names
    )
    if not reason:
        try:
            # All names match, so an error is about shapes.
            detector.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
    if reason:
        raise UserError(
            f"{folder} holds tensors of another network than this release's "
            f"{type(detector).__name__}: {reason}; train again or use the release that made it"
        )


def copy_matching(detector: Detector, state: dict[str, Tensor]) -> int:
    """Copy every tensor that matches by name and shape; returns their number.

    Frozen parts keep the weights that this training names. UserError when nothing matches.
    """
    # A strict load of the merged state: every tensor is either matching or its own.
    own = detector.state_dict()
    # Parts are top-level modules. Buffers of a frozen part, such as the statistics of a teacher,
    # have no requires_grad and are recognised by the part's name.
    frozen = {
        name.split(".")[0] for name, value in detector.named_parameters() if not value.requires_grad
    }
    matching = {
        name: tensor
        for name, tensor in state.items()
        if name in own and own[name].shape == tensor.shape and name.split(".")[0] not in frozen
    }
    if not matching:
        raise UserError("no tensor of the checkpoint to start from fits; start from another one")
    detector.load_state_dict(own | matching)
    return len(matching)


def snapshot(detector: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer, contiguous, on the CPU."""
    return {
        # `copy=True`, because on a CPU `to` would return the live tensor, which training changes.
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in detector.state_dict().items()
    }


def software() -> dict[str, str]:
    """Versions of the software that affect the numbers of a checkpoint."""
    return {"python": platform.python_version(), "torch": torch.__version__}


def _like_training(card: Card, device: str) -> Compute:
    """The precision of the training where the device has it; else the nearest that is exact."""
    # bf16 was chosen by `auto`, which chooses it again wherever it exists.
    compute = resolve(device, "auto")
    if card.precision == "fp32":
        return resolve(device, "fp32")
    if card.precision == "tf32" and compute.device.type == "cuda":
        try:
            return resolve(device, "tf32")
        except DeviceError:
            return resolve(device, "fp32")
    return compute
