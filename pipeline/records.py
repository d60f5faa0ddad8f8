"""The words of the project as frozen records that check themselves once, at construction.

Shapes: H, W image; N proposals; 3 colour (RGB, uint8, 0-255); 4 box as x0 y0 x1 y1 (exclusive end).
Inside the border that a record makes, nobody checks again. No record holds a file or a model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.errors import RecordError
from pipeline.kinds import KINDS, is_control

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


MAX_PIXELS = 80_000_000
"""Pixels that an image may have; here, so that readers of versions need no image library."""


GOOD = "good"
"""The defect name of a normal image, in every source layout."""


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One image of a source: where it lies and what its layout says about it, no pixels.

    `name` is the path below the category folder with `/`, the id that people read. `defect` is
    `good` or the defect folder's name. `masks` are ground-truth PNGs, several for MVTec LOCO.
    """

    category: str
    name: str
    path: Path
    split: Split
    defect: str = GOOD
    masks: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise RecordError(f"split must be one of {SPLITS}, got {self.split!r} for {self.name}")


@dataclass(frozen=True, slots=True, eq=False)
class ForegroundMask:
    """Where the parts are. `mask_HW` is bool, True on foreground.

    `peak` is the highest raw saliency in [0, 1] before any stretch. `fallback` is empty, or says
    why the whole frame was taken instead of the model's answer.
    """

    mask_HW: np.ndarray
    peak: float = 1.0
    fallback: str = ""

    def __post_init__(self) -> None:
        _expect("mask_HW", self.mask_HW, np.bool_, 2)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectProposals:
    """Candidate objects inside one foreground, best first.

    `masks_NHW` is bool, `scores_N` float32 (predicted IoU, 0-1), `foreground_HW` bool. `relaxed`
    names the filters that had to be loosened to find any, in order; N may be 0.
    """

    masks_NHW: np.ndarray
    scores_N: np.ndarray
    foreground_HW: np.ndarray
    relaxed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _expect("masks_NHW", self.masks_NHW, np.bool_, 3)
        _expect("scores_N", self.scores_N, np.float32, 1)
        _expect("foreground_HW", self.foreground_HW, np.bool_, 2)
        if len(self.scores_N) != len(self.masks_NHW):
            raise RecordError(f"{len(self.masks_NHW)} masks but {len(self.scores_N)} scores")
        if self.masks_NHW.shape[1:] != self.foreground_HW.shape:
            raise RecordError(
                f"masks are {self.masks_NHW.shape[1:]}, foreground is {self.foreground_HW.shape}"
            )

    def __len__(self) -> int:
        return len(self.masks_NHW)

    @property
    def boxes_N4(self) -> np.ndarray:
        """(N, 4) int32, x0 y0 x1 y1, exclusive end; zeros for an empty mask."""
        return np.array([bounding_box(mask) for mask in self.masks_NHW], np.int32).reshape(-1, 4)


@dataclass(frozen=True, slots=True)
class Edit:
    """A plan, no pixels: what to do to which proposals. JSON-able, so it can be replayed.

    `targets` index the proposals; `parameters` hold JSON values only (`docs/edits.md` names them
    per kind); `seed` feeds every random choice made while composing.
    """

    kind: str
    targets: tuple[int, ...]
    parameters: Mapping[str, Any]
    seed: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise RecordError(f"kind must be one of {KINDS}, got {self.kind!r}")

    @property
    def is_control(self) -> bool:
        """True when the edit leaves the meaning unchanged, so the sample counts as normal."""
        return is_control(self.kind)

    @property
    def parts(self) -> "tuple[Edit, ...]":
        """The edits that a `combined` one is made of, else the edit itself."""
        return tuple(map(Edit.from_json, self.parameters.get("edits", ()))) or (self,)

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "targets": list(self.targets),
            "parameters": dict(self.parameters),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Edit":
        return cls(data["kind"], tuple(data["targets"]), dict(data["parameters"]), data["seed"])


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The result of an edit: pixels, where they may differ from the source, and the touched object.

    `change_HW` is the edited region (dilated removals and destinations); outside it
    `pixels_HW3` is byte-identical to the source. `object_HW` is the undilated object.
    """

    edit: Edit
    pixels_HW3: np.ndarray
    change_HW: np.ndarray
    object_HW: np.ndarray

    def __post_init__(self) -> None:
        expect_image("pixels_HW3", self.pixels_HW3)
        for name in ("change_HW", "object_HW"):
            mask_HW = getattr(self, name)
            _expect(name, mask_HW, np.bool_, 2)
            if mask_HW.shape != self.pixels_HW3.shape[:2]:
                raise RecordError(f"{name} is {mask_HW.shape}, pixels are {self.pixels_HW3.shape}")

    @property
    def label(self) -> int:
        """0 normal (controls), 1 anomalous."""
        return 0 if self.edit.is_control else 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says. `reason` is empty when accepted; `scores` are the measured quantities.

    `rule` names the rule of a rule book that the edit was to break (several joined by `+`), and
    `broken` those found broken when the parts were sought again; both are empty without a book.
    """

    accepted: bool
    reason: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    rule: str = ""
    broken: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.accepted == bool(self.reason):
            raise RecordError(f"accepted={self.accepted} does not go with reason {self.reason!r}")


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One try at one sample of one image. `sample` is None when no edit could be planned."""

    number: int
    attempt: int
    kind: str
    seed: int
    sample: Sample | None
    verdict: Verdict
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class ImageResult:
    """Everything that generation made of one normal image, in order of sample number and attempt.

    `digest` is the SHA-256 of the source file; `pixels_HW3` the image as stored.
    """

    name: str
    digest: str
    split: Split
    pixels_HW3: np.ndarray
    foreground: ForegroundMask
    proposals: ObjectProposals
    attempts: tuple[Attempt, ...]

    def __post_init__(self) -> None:
        expect_image("pixels_HW3", self.pixels_HW3)


@dataclass(frozen=True, slots=True, eq=False)
class TestImage:
    """One image of the real test split with its ground truth, at the stored size.

    `masks_KHW` is bool, one per ground-truth region file and grey value; `values_K` uint8 is that
    grey value (MVTec LOCO's defect type; 255 elsewhere). K is 0 for good images and maskless sets.
    """

    __test__ = False  # the name is the field's word; pytest must not collect it

    name: str
    digest: str
    defect: str
    pixels_HW3: np.ndarray
    masks_KHW: np.ndarray
    values_K: np.ndarray

    def __post_init__(self) -> None:
        expect_image("pixels_HW3", self.pixels_HW3)
        _expect("masks_KHW", self.masks_KHW, np.bool_, 3)
        _expect("values_K", self.values_K, np.uint8, 1)


def bounding_box(mask_HW: np.ndarray) -> tuple[int, int, int, int]:
    """(x0, y0, x1, y1) of the True pixels, exclusive end; zeros when there are none."""
    rows = np.flatnonzero(mask_HW.any(1))
    if not len(rows):
        return (0, 0, 0, 0)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask_HW[top:bottom].any(0))
    return (int(columns[0]), top, int(columns[-1]) + 1, bottom)


def expect_image(name: str, image_HW3: np.ndarray) -> None:
    """Raise RecordError unless the array is (H, W, 3) uint8."""
    _expect(name, image_HW3, np.uint8, 3)
    if image_HW3.shape[2] != 3:
        raise RecordError(f"{name} must be (H, W, 3) uint8, got {image_HW3.shape}")


def _expect(name: str, array: np.ndarray, dtype: type, ndim: int) -> None:
    if array.dtype != dtype or array.ndim != ndim:
        raise RecordError(
            f"{name} must have {ndim} axes of {np.dtype(dtype)}, got {array.shape} {array.dtype}"
        )
