"""What an export format is, what can be chosen about an export, and what a format wrote."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.export.folder import ExportFolder

SAMPLES = ("held-out", "all")
TESTS = ("synthetic", "real", "both")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """`samples` and `test` choose the test side of the folder trees; other formats hold all splits.

    `samples` "held-out" leaves out what was made from training images. `test` says whether the test
    side is synthetic, the source's real test split, or both. `controls` are edited images that
    stayed normal; they count as normal.
    """

    controls: bool = True
    samples: str = "held-out"
    test: str = "synthetic"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--samples", self.samples, SAMPLES),
            ("--test", self.test, TESTS),
        ):
            if value not in known:
                raise UserError(f"{name} is one of {', '.join(known)}, got {value!r}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Content:
    """What a format wrote: its layout and how to open it (Markdown), what was left out and why.

    `front` is put before everything else in the README; only Hugging Face reads one.
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
    it. A format with `train_test` has a training and a test side, whose test side can be chosen;
    the others hold every split under its own name.
    """

    name: str
    title: str
    files: str
    readers: str
    write: Callable[[Version, ExportOptions, ExportFolder], Content]
    train_test: bool = False
