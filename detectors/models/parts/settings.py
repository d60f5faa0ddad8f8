"""Settings of the detector `parts`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from detectors.base import DetectorSettings


class PartsSettings(DetectorSettings):
    """Which parts are expected, and by which networks they are found."""

    teacher: Literal["bundled-teacher"] = Field(
        default="bundled-teacher",
        description="weights registry entry that describes parts, as for rule books",
    )
    rules: Path | None = Field(
        default=None,
        description="rule book whose rules are checked; none = drafted from the training normals",
    )
    beside: Literal["", "nearest", "puad", "laead"] = Field(
        default="",
        description="detector of profile cpu whose score counts, too, for what no rule is about; "
        "empty = none",
    )

    def trains(self) -> bool:
        return False
