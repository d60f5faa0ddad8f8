"""A trained detector as a folder: `checkpoint.json`, and every tensor in `model.safetensors`.

    save(folder, detector, card)
    restored = load(folder)
    with torch.inference_mode(), restored.compute.autocast():
        scores = restored.detector(images_B3HW)

The JSON is written last and holds the SHA-256 of the tensors, so a reader sees a whole checkpoint
or none. Nothing in it is a program. Shapes: B batch; H, W = `size`; 3 colour (RGB).
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

from detectors.base import Detector, DetectorSettings, Schedule
from detectors.registry import assemble, entry
from detectors.training.calibration import Calibration
from detectors.training.precision import Precision, resolve
from detectors.training.precision_parity import Parity
from pipeline.dataset.version import Version
from pipeline.errors import DeviceError, IntegrityError, UserError
from pipeline.models.device import Compute
from pipeline.settings import Settings
from pipeline.utils.files import naming_the_disk, write_whole

FORMAT = 1
CARD, MODEL = "checkpoint.json", "model.safetensors"
MEND = "restore the checkpoint from a copy, or delete its folder and train again"


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
            licence=version.index.get("licence", ""),
        )


class FileCard(Settings):
    """A file that went into the training: its name, not its path, and its SHA-256."""

    name: str
    sha256: str


class ValidationPass(Settings):
    """One look at the validation split during training; what does not exist is None."""

    step: int
    loss: float | None = None
    auroc: float | None = None
    auroc_by_kind: dict[str, float] = Field(default_factory=dict)


class Card(Settings):
    """Everything about a checkpoint but its tensors.

    `steps` is how many were done, `schedule.steps` how many were planned. `teacher` and `start` are
    the files that were read before the first step, `sha256` is the digest of `model.safetensors`.
    `calibration` is of scores in `precision`; where that is bf16, `calibration_fp32` is of the same
    detector's scores in fp32, whose thresholds differ. `load` gives the one that fits.
    """

    format: int = FORMAT
    detector: str
    settings: dict[str, Any]
    schedule: dict[str, Any]
    version: VersionCard
    teacher: FileCard | None = None
    start: FileCard | None = None
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
    """A detector as it was saved, in evaluation mode on its device."""

    detector: Detector
    card: Card
    compute: Compute


def save(folder: Path, detector: Detector, card: Card) -> Card:
    """Write a checkpoint; returns the card with the digest of the tensors."""
    content = bytes_of(snapshot(detector))
    card = card.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    text = json.dumps(card.model_dump(mode="json"), indent=1, allow_nan=False)
    with naming_the_disk(folder):
        write_whole(folder / MODEL, content)
        write_whole(folder / CARD, text.encode() + b"\n")
    return card


def load(folder: Path, device: str = "auto", precision: str = "auto") -> Restored:
    """Read a checkpoint, every byte of it checked.

    Precision `auto` is the one of the training, in which the thresholds were made, where this
    machine has it. UserError for a folder that is no checkpoint of this release, IntegrityError
    for a damaged file.
    """
    folder = Path(folder)
    card = read_card(folder)
    state = read_tensors(folder / MODEL, card.sha256)
    detector = assemble(card.detector, settings_of(card), weights=False)
    fill(detector, state, folder)
    compute = _like_training(card, device) if precision == "auto" else resolve(device, precision)
    detector.to(device=compute.device).to(memory_format=torch.channels_last)
    if card.calibration_fp32 is not None and not compute.reduced:
        card = card.model_copy(update={"calibration": card.calibration_fp32})
    return Restored(detector.eval(), card, compute)


def read_card(folder: Path) -> Card:
    """The card of a checkpoint; reads no tensor."""
    path = folder / CARD
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is no checkpoint: it holds no {CARD}; name the --out of a "
                        "finished training") from None  # fmt: skip
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged: {error}; {MEND}") from None
    number = content.get("format") if isinstance(content, dict) else None
    if number != FORMAT:
        raise UserError(f"{folder} has checkpoint format {number}, this release reads {FORMAT}")
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        raise IntegrityError(f"{path} is damaged: {first_fault(error)}; {MEND}") from None


def settings_of(card: Card) -> DetectorSettings:
    """The settings of the card as the detector's own; UserError when this release lacks some."""
    kind = type(entry(card.detector).paper[0])
    try:
        return kind.model_validate(card.settings)
    except ValidationError as error:
        raise UserError(
            f"the checkpoint of {card.detector} was made by another release: {first_fault(error)}; "
            "train again or use that release"
        ) from None


def schedule_of(card: Card) -> Schedule:
    """The schedule of the card."""
    return Schedule.model_validate(card.schedule)


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file that must have this digest; IntegrityError names the file."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise IntegrityError(f"{path} is missing; {MEND}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise IntegrityError(
            f"{path} is damaged: expected SHA-256 {sha256[:12]}…, found {found[:12]}…; {MEND}"
        )
    return tensors_of(content)


def fill(detector: Detector, state: dict[str, Tensor], folder: Path) -> None:
    """Copy a state into a detector; UserError says which tensors do not fit."""
    wanted = set(detector.state_dict())
    lacking, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted)
    reason = "; ".join(
        f"{word} {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
        for word, names in (("it lacks", lacking), ("it has an unknown", unknown))
        if names
    )
    if not reason:
        try:
            detector.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
    if reason:
        raise UserError(
            f"{folder} holds the tensors of another network than {type(detector).__name__} of this "
            f"release: {reason}; train again or use the release that made it"
        )


def snapshot(detector: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter and buffer, contiguous, on the CPU."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous()
        for name, tensor in detector.state_dict().items()
    }


def software() -> dict[str, str]:
    """What made a checkpoint, as far as it decides about numbers."""
    return {"python": platform.python_version(), "torch": torch.__version__}


def first_fault(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, in one line."""
    fault = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'content'}: {fault['msg']}"


def _like_training(card: Card, device: str) -> Compute:
    compute = resolve(device, "auto")
    if card.precision == "fp32":
        return resolve(device, "fp32")
    if card.precision == "tf32" and compute.device.type == "cuda":
        try:
            return resolve(device, "tf32")
        except DeviceError:
            return resolve(device, "fp32")
    return compute
