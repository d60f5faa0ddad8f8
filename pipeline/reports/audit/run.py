"""The audit of a version: would a detector learn the anomalies, or traces of the editing?

    audit(version)["shortcut"]        traces of editing (shortcut.py)
    audit(version)["detectability"]   what a frozen baseline detects of each kind (detectability.py)

It is stored in the index beside the counts and is no part of the dataset digest, because it
describes the data. Whatever goes wrong in it becomes a note, so no audit prevents a publication.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.dataset.version import Version
from pipeline.errors import AnomalysmithError


def audit(version: Version) -> dict[str, Any]:
    """Both reports, JSON-able; a report that failed has a `note` instead of figures."""
    return {name: part(version) for name, part in parts().items()}


def parts() -> dict[str, Callable[[Version], dict[str, Any]]]:
    """The reports by their keys in `audit`; each is a function of a version of its own."""

    def attempted(part: Callable[[Version], dict[str, Any]], version: Version) -> dict[str, Any]:
        try:
            return part(version)
        except AnomalysmithError as error:
            return {"note": f"could not be computed: {error}"}
        # A library may raise anything on unforeseen data.
        except Exception as error:
            return {"note": f"could not be computed: {type(error).__name__}: {error}"[:300]}

    # Imported inside, so a failing import (no torch, no weights) costs one report only.
    def traces(version: Version) -> dict[str, Any]:
        from pipeline.reports.audit.shortcut import shortcut

        return shortcut(version)

    def kinds(version: Version) -> dict[str, Any]:
        from pipeline.reports.audit.detectability import detectability

        return detectability(version)

    return {"shortcut": partial(attempted, traces), "detectability": partial(attempted, kinds)}
