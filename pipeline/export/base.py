"""Records of an export: its options, its format, and what the format wrote."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.export.folder import ExportFolder

# Choices of the command's options.
SAMPLES = ("held-out", "all")
TESTS = ("synthetic", "real", "both")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export. `samples` and `test` choose the test side of the folder trees.

    `samples` "held-out" leaves out samples of training images. `test` says whether the test side is
    synthetic, the source's real test split, or both. `controls` (edited images that are still
    normal) are exported as normal images, or left out. Formats that hold all splits ignore the
    first two.
    """

    controls: bool = True
    samples: str = "held-out"
    test: str = "synthetic"

    def __post_init__(self) -> None:
        # Named as on the command line, where these values come from.
        for name, value, known in (
            ("--samples", self.samples, SAMPLES),
            ("--test", self.test, TESTS),
        ):
            if value not in known:
                raise UserError(f"{name}: expected one of {', '.join(known)}, got {value!r}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Content:
    """What a format wrote: its layout and how to open it (Markdown), and what was left out.

    `left_out` maps a reason to a number of images. `front` is put before everything else in the
    README; only Hugging Face reads one.
    """

    layout: str
    opening: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    front: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportFormat:
    """One format. `title` completes "..., as TITLE" in the README of an export.

    `files` and `readers` (Markdown) are its row of docs/export.md: what is written, and what opens
    it. A format with `train_test` has a training and a test side, and options choose what goes into
    the test side; the others hold every split under its own name.
    """

    name: str
    title: str
    files: str
    readers: str
    write: Callable[[Version, ExportOptions, ExportFolder], Content]
    train_test: bool = False
