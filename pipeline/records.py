"""Data records shared by all packages: frozen, and validated once at construction.

Shapes: H, W image; N proposals; K ground-truth masks; 3 colour (RGB, uint8, 0-255); 4 box as x0 y0
x1 y1 (exclusive end). Code that receives a record does not validate it again. No record holds an
open file or a model.
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


# Largest number of pixels of an image. Defined here, so that readers of versions need no image
# library.
MAX_PIXELS = 80_000_000


# The defect name of a normal image, in every source layout.
GOOD = "good"
# What `ObjectProposals.parent_N` says of a proposal that is no piece of another one.
WHOLE_PART, WHOLE_PRODUCT = -1, -2
# Records with arrays have `eq=False`: comparing arrays gives arrays, not a truth value.


@dataclass(frozen=True, slots=True)
class SourceEntry:
    """One image of a source: its path and what its layout says about it, without pixels.

    `name` is the path below the category folder with `/`, used as the readable id. `defect` is
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
    """The foreground (product) of an image. `mask_HW` is bool, True on foreground.

    `peak` is the highest raw saliency in [0, 1] before rescaling. `fallback` is empty, or says why
    the whole image was taken instead of the model's output. `backend` names the network that made
    the mask; with two of them it may differ from image to image. `pattern_HW` (bool) is background
    that is known because it repeats itself, None where it does not; it is not stored.
    """

    mask_HW: np.ndarray
    peak: float = 1.0
    fallback: str = ""
    backend: str = ""
    pattern_HW: np.ndarray | None = None

    def __post_init__(self) -> None:
        _expect("mask_HW", self.mask_HW, np.bool_, 2)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectProposals:
    """Candidate objects inside one foreground, best first.

    `masks_NHW` is bool, `scores_N` float32 (predicted IoU, 0-1), `foreground_HW` bool. `relaxed`
    names the filters that had to be relaxed to find any, in order. `vectors_NC` float32 are the
    embeddings by which part kinds are told apart, None where nobody asked for them. N may be 0.

    `parent_N` int32 is the hierarchy: WHOLE_PART, or the index of the larger proposal that this one
    is a piece of, or WHOLE_PRODUCT where the proposal is the product itself. None = all are wholes.

    The last `again` proposals were found when missing parts were asked for (`part_kinds.asking`).
    """

    masks_NHW: np.ndarray
    scores_N: np.ndarray
    foreground_HW: np.ndarray
    relaxed: tuple[str, ...] = ()
    vectors_NC: np.ndarray | None = None
    parent_N: np.ndarray = None  # type: ignore[assignment]
    again: int = 0

    def __post_init__(self) -> None:
        if self.parent_N is None:
            # The only way to complete a frozen record.
            everything = np.full(len(self.masks_NHW), WHOLE_PART, np.int32)
            object.__setattr__(self, "parent_N", everything)
        _expect("parent_N", self.parent_N, np.int32, 1)
        if len(self.parent_N) != len(self.masks_NHW):
            raise RecordError(f"{len(self.masks_NHW)} masks but {len(self.parent_N)} parents")
        _expect("masks_NHW", self.masks_NHW, np.bool_, 3)
        _expect("scores_N", self.scores_N, np.float32, 1)
        _expect("foreground_HW", self.foreground_HW, np.bool_, 2)
        # Fields that belong together must agree.
        if len(self.scores_N) != len(self.masks_NHW):
            raise RecordError(f"{len(self.masks_NHW)} masks but {len(self.scores_N)} scores")
        if self.vectors_NC is not None and len(self.vectors_NC) != len(self.masks_NHW):
            raise RecordError(f"{len(self.masks_NHW)} masks but {len(self.vectors_NC)} embeddings")
        if self.masks_NHW.shape[1:] != self.foreground_HW.shape:
            raise RecordError(
                f"masks are {self.masks_NHW.shape[1:]}, foreground is {self.foreground_HW.shape}"
            )

    def __len__(self) -> int:
        return len(self.masks_NHW)

    @property
    def whole_N(self) -> np.ndarray:
        """Which proposals are whole parts, neither pieces nor the product itself; (N,) bool."""
        return self.parent_N == WHOLE_PART

    @property
    def product_N(self) -> np.ndarray:
        """Which proposal is the whole product, at most one; (N,) bool."""
        return self.parent_N == WHOLE_PRODUCT

    @property
    def beside_N(self) -> np.ndarray:
        """Which objects lie mostly beside the product, (N,) bool; none where there is none."""
        if not self.product_N.any():
            return np.zeros(len(self), np.bool_)
        outside_HW = ~self.masks_NHW[self.product_N].any(0)
        areas_N = self.masks_NHW.sum((1, 2))
        beside_N: np.ndarray = (self.masks_NHW & outside_HW).sum((1, 2)) > 0.5 * areas_N
        return beside_N

    @property
    def boxes_N4(self) -> np.ndarray:
        """(N, 4) int32, x0 y0 x1 y1, exclusive end; zeros for an empty mask."""
        return np.array([bounding_box(mask) for mask in self.masks_NHW], np.int32).reshape(-1, 4)


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What one pass of the models found in an image.

    `proposals` are the objects that edits may change; `soft` are found under softer limits, and
    rule books choose the parts of the image from them.
    """

    foreground: ForegroundMask
    proposals: ObjectProposals
    soft: ObjectProposals


@dataclass(frozen=True, slots=True)
class Edit:
    """A planned edit without pixels: what to do with which proposals. JSON-able and replayable.

    `targets` index the proposals. `parameters` hold JSON values only; `docs/edits.md` lists them
    per kind. `seed` is the random seed of the compositing. RecordError for an unknown kind.
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
        """The edits that a composite one consists of, else the edit itself."""
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
    """The result of an edit: pixels, change mask, and object mask.

    `change_HW` is the edited region (dilated removals and destinations); outside it `pixels_HW3`
    is byte-identical to the source. `object_HW` is the undilated object at its old place.
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
    """The gate's decision. `reason` is empty when accepted; `scores` are the measured quantities.

    `rule` is the rule of a rule book that the edit should break (several joined by `+`), `broken`
    are the rules found broken in the edited image, `findings` say the same in words. All are empty
    without a rule book.
    """

    accepted: bool
    reason: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)
    rule: str = ""
    broken: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Every rejection has a reason, and only rejections have one.
        if self.accepted == bool(self.reason):
            raise RecordError(
                "expected a reason exactly when a sample is rejected, got "
                f"accepted={self.accepted} and reason {self.reason!r}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """One attempt to generate a sample of an image; `sample` is None if no edit could be planned.

    `number` counts the samples of the image, `attempt` the attempts at one sample.
    """

    number: int
    attempt: int
    kind: str
    seed: int
    sample: Sample | None
    verdict: Verdict
    # Wall-clock time of planning, applying and judging.
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class ImageResult:
    """Everything generated from one normal image; attempts in order of sample number and attempt.

    `digest` is the SHA-256 of the source file, `pixels_HW3` the image at its stored size.
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

    `masks_KHW` is bool, one per ground-truth file and grey value. `values_K` is that grey value,
    uint8 (the defect type in MVTec LOCO, else 255). K is 0 for good images and for sets without
    masks.
    """

    # Pytest must not collect this class as a test.
    __test__ = False

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
    # As bytes, which know where the first and the last 1 is: thousands of boxes are asked for.
    rows = mask_HW.any(1).tobytes()
    top, bottom = rows.find(1), rows.rfind(1) + 1
    if not bottom:
        return (0, 0, 0, 0)
    # Search columns only in the rows found: boxes are small compared with images.
    columns = mask_HW[top:bottom].any(0).tobytes()
    return (columns.find(1), top, columns.rfind(1) + 1, bottom)


def expect_image(name: str, image_HW3: np.ndarray) -> None:
    """Raise RecordError unless the array is (H, W, 3) uint8."""
    _expect(name, image_HW3, np.uint8, 3)
    if image_HW3.shape[2] != 3:
        raise RecordError(f"{name} must be (H, W, 3) uint8, got {image_HW3.shape}")


def _expect(name: str, array: np.ndarray, dtype: type, ndim: int) -> None:
    """Raise RecordError unless an array has this dtype and number of axes."""
    if array.dtype != dtype or array.ndim != ndim:
        raise RecordError(
            f"{name} must have {ndim} axes of {np.dtype(dtype)}, got {array.shape} {array.dtype}"
        )
