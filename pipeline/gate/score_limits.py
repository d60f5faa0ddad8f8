"""What the gate asked of a stored sample's scores, as text to stand beside them."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from pipeline.gate.settings import GateSettings
from pipeline.records import Edit

Asked = Callable[[Mapping[str, Any]], dict[str, str]]
"""From the record of a sample to `≤ 0.4` by the name of a score; scores without a limit lack."""


def score_limits(index: Mapping[str, Any]) -> Asked:
    """How the limits of a version read; nothing where its settings are of another release."""
    # The gate brings its network along, which a page of an older version may do without.
    from pipeline.gate.calibration import Limits
    from pipeline.gate.checks import findings

    stated, learned = index["settings"].get("gate") or {}, index.get("limits") or {}
    known = {field.name for field in fields(Limits)}
    try:
        settings = GateSettings.model_validate(stated)
        limits = Limits(**{name: value for name, value in learned.items() if name in known})
    except (ValidationError, TypeError):
        return lambda record: {}

    def asked(record: Mapping[str, Any]) -> dict[str, str]:
        edit = Edit.from_json(record["edit"])
        sides: dict[str, list[str]] = {}
        for finding in findings(edit, record["scores"], settings, limits):
            if finding.limit is None or finding.rule.reason == "empty":
                continue
            sign = "≤" if finding.rule.sense == "above" else "≥"
            sides.setdefault(finding.rule.score, []).append(f"{sign} {finding.limit:.3g}")
        return {score: ", ".join(sorted(found, reverse=True)) for score, found in sides.items()}

    return asked
