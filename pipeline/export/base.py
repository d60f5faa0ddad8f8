"""What can be chosen about an export, and what a format says about itself when it is written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.errors import UserError

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
