"""Settings of the detector `parts`."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from detectors.base import DetectorSettings
from pipeline.rulebook.book import digest_of_file


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
    rules_digest: str = Field(
        default="",
        description="digest of that book's content, filled in; a changed book is another training",
    )
    beside: Literal["", "nearest", "puad", "laead", "efficientad", "semrec", "destseg", "glcf"] = (
        Field(
            default="",
            description="detector whose score counts, too, for what no rule is about; empty = none",
        )
    )
    beside_settings: dict[str, Any] = Field(
        default={},
        description="its settings that are not those of the profile, as JSON; all are filled in",
    )
    beside_trains: bool = Field(
        default=False, description="whether it trains a network, and so takes steps; filled in"
    )

    @model_validator(mode="before")
    @classmethod
    def _read_digest(cls, values: Any) -> Any:
        # A checkpoint has its digest, and needs the file no more.
        if isinstance(values, dict) and values.get("rules") and not values.get("rules_digest"):
            return {**values, "rules_digest": digest_of_file(Path(values["rules"]))}
        return values

    def trains(self) -> bool:
        return self.beside_trains
