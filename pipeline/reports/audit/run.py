"""The audit of a version: is it worth learning from, or would a detector learn the editing?

    audit(version)["shortcut"]        traces of editing (audit_shortcut.py)
    audit(version)["detectability"]   what a frozen baseline sees of each kind (detectability.py)

It lands in the index beside the counts, outside the digest of the dataset: it says something about
the data and is none of it. Whatever goes wrong in it is a note; no version is lost over its audit.
"""

from collections.abc import Callable
from typing import Any

from pipeline.dataset.version import Version
from pipeline.errors import AnomalysmithError


def audit(version: Version) -> dict[str, Any]:
    """Both reports, JSON-able; a part that failed has a `note` instead of figures."""

    def look(part: Callable[[Version], dict[str, Any]]) -> dict[str, Any]:
        try:
            return part(version)
        except AnomalysmithError as error:
            return {"note": f"could not be made: {error}"}
        except Exception as error:  # a library's, on data that nobody foresaw
            return {"note": f"could not be made: {type(error).__name__}: {error}"[:300]}

    def traces(version: Version) -> dict[str, Any]:
        from pipeline.reports.audit.shortcut import shortcut

        return shortcut(version)

    def kinds(version: Version) -> dict[str, Any]:
        from pipeline.reports.audit.detectability import detectability

        return detectability(version)

    return {"shortcut": look(traces), "detectability": look(kinds)}
