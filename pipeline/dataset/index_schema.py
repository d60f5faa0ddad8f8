"""Whether an index says what an index says: the form of `index.json`, before anything trusts it.

A version may come from somebody else. Its index names files, sizes and counts that readers act on,
so each is looked at first: a file name cannot lead out of the version's folder, a category cannot
lead out of a store, and no size asks for more memory than an image may have.
"""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.records import MAX_PIXELS

ROLES = ("samples", "rejects", "test")
SHARD_NAME = re.compile(r"(?:shard|test|rejects)(?:-\d+)?\.h5")
VERSION_NAME = re.compile(r"(\d{4,})-[0-9a-f]{12}")
_DIGEST = re.compile(r"[0-9a-f]{12,64}")

_COUNT = int
_FORM: dict[str, Any] = {
    "category": str,
    "image_size": [_COUNT],
    "digest": str,
    "plan_digest": str,
    "counts": {
        "images": _COUNT, "attempts": _COUNT, "accepted": _COUNT, "anomalous": _COUNT,
        "controls": _COUNT, "rejected": {...: _COUNT},
        "by_kind": {...: {"attempted": _COUNT, "accepted": _COUNT}},
        "splits": {...: {"images": _COUNT, "samples": _COUNT}},
        "test": {"images": _COUNT, "good": _COUNT, "by_defect": {...: _COUNT}},
    },
    "shards": [
        {"file": str, "role": str, "bytes": _COUNT, "sha256": str, "content": str,
         "images": _COUNT, "samples": _COUNT}
    ],
    "version": str,
    "parent": (str, type(None)),
    "profile": str,
    "licence": str,
    "settings": {},
    "weights": {...: str},
    "code_version": str,
    "failures": [{"name": str, "error": str}],
    "digests": {...: str},
}  # fmt: skip
"""What readers rely on; `...` stands for any key. More may be there: it is not looked at."""


def fault(index: Any) -> str:
    """What is wrong with the content of an index, in a few words; empty when it can be trusted."""
    if not isinstance(index, dict):
        return f"expected keys and values, got {type(index).__name__}"
    missing = set(_FORM) - set(index)
    if missing:
        return f"it lacks {sorted(missing)}"
    found = _misfit(index, _FORM, "")
    if found:
        return found
    size = index["image_size"]
    if len(size) != 2 or min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        return f"image_size {str(size)[:40]} is no height and width of an image"
    if not is_plain_name(index["category"]):
        return f"category {index['category'][:40]!r} is not the name of a folder"
    if not _DIGEST.fullmatch(index["digest"]) or not _DIGEST.fullmatch(index["plan_digest"]):
        return "a digest is not hexadecimal"
    for name in filter(None, (index["version"], index["parent"])):
        if not VERSION_NAME.fullmatch(name):
            return f"{name[:40]!r} is not the name of a version"
    for shard in index["shards"]:
        if not SHARD_NAME.fullmatch(shard["file"]) or shard["role"] not in ROLES:
            return f"{shard['file'][:40]!r} ({shard['role'][:20]!r}) is not the name of a shard"
    return ""


def is_plain_name(text: str) -> bool:
    """True for a name that stays in the folder that it is put into, and that can be seen there."""
    seen = set(text) - _BLANK
    return bool(seen) and text[0] != "." and text.isprintable() and not set(text) & set("/\\")


_BLANK = set(" \u115f\u1160\u2800\u3164\uffa0")
"""Letters that Unicode calls printable and fonts show as nothing: Hangul fillers, empty Braille."""


def _misfit(value: Any, form: Any, where: str) -> str:
    """Where the value does not have the form; empty when it has."""
    if isinstance(form, dict):
        if not isinstance(value, Mapping):
            return f"{where} is no mapping"
        for key, inner in form.items():
            chosen = value if key is ... else [key]
            for name in chosen:
                if name not in value:
                    return f"{where}.{name} is missing".lstrip(".")
                if found := _misfit(value[name], inner, f"{where}.{name}".lstrip(".")):
                    return found
        return ""
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        faults = (_misfit(item, form[0], f"{where}[{n}]") for n, item in enumerate(value))
        return next((found for found in faults if found), "")
    forms = form if isinstance(form, tuple) else (form,)
    good = type(value) in forms and (form is not _COUNT or value >= 0)
    return "" if good else f"{where} is {str(value)[:40]!r}, expected {forms[0].__name__}"
