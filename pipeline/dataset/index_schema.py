"""The schema of `index.json`, checked before any reader trusts it.

A version may come from somebody else. Its index names files, sizes and counts that readers act on,
so each is checked first: a file name cannot lead out of the version's folder, a category cannot
lead out of a store, and no size asks for more memory than an image may have.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, InstanceOf, ValidationError

from pipeline.records import MAX_PIXELS

VERSION_NAME = re.compile(r"(\d{4,})-[0-9a-f]{12}")
# Not `.+\.h5`: the name is opened as it is, so it must stay inside the version's folder.
_SHARD_NAME = re.compile(r"(?:shard|test|rejects)(?:-\d+)?\.h5")
_DIGEST = re.compile(r"[0-9a-f]{12,64}")
# Characters that Unicode calls printable and fonts show as nothing: Hangul fillers, empty Braille.
_BLANK = set(" \u115f\u1160\u2800\u3164\uffa0")


def fault(index: Any) -> str:
    """What is wrong with the content of an index, in a few words; empty when it can be trusted."""
    if not isinstance(index, dict):
        return f"expected keys and values, got {type(index).__name__}"
    # Strict: no conversion of types, so a reader gets exactly what was checked.
    try:
        _Index.model_validate(index, strict=True)
    except ValidationError as error:
        # One error is enough to reject a version; the message stays one line.
        first = error.errors(include_url=False, include_context=False)[0]
        where, text = ".".join(map(str, first["loc"]))[:80], first["msg"]
        if first["type"] == "missing":
            return f"{where} is missing"
        text = text.removeprefix("Value error, ").replace("Input should be", "expected")
        # The value is cut short, because it may fill the whole file.
        return f"{where} is {str(first['input'])[:40]!r}, {text.partition(' or instance of')[0]}"
    return ""


def is_plain_name(text: str) -> bool:
    """True for a name that stays in the folder it is put into, and that is visible there."""
    # A leading dot hides a file, and so do names of blanks only.
    seen = set(text) - _BLANK
    return bool(seen) and text[0] != "." and text.isprintable() and not set(text) & set("/\\")


def _is(what: str, good: Callable[[Any], object]) -> AfterValidator:
    """A check whose failure reads `expected WHAT`."""

    def check(value: Any) -> Any:
        if not good(value):
            raise ValueError(f"expected {what}")
        return value

    return AfterValidator(check)


# Not `str`: pydantic rejects lone surrogates, which names of files hold that are no UTF-8.
_Text = InstanceOf[str]
_Count = Annotated[int, Field(ge=0)]
_Digest = Annotated[_Text, _is("hexadecimal digits", _DIGEST.fullmatch)]
# Empty while the version is written and has no name yet.
_VersionName = Annotated[
    _Text, _is("the name of a version", lambda name: not name or VERSION_NAME.fullmatch(name))
]


def _is_size(sides: list[int]) -> bool:
    return len(sides) == 2 and min(sides) > 0 and sides[0] * sides[1] <= MAX_PIXELS


class _Kind(BaseModel):
    attempted: _Count
    accepted: _Count


class _Split(BaseModel):
    images: _Count
    samples: _Count


class _Test(BaseModel):
    images: _Count
    good: _Count
    by_defect: dict[_Text, _Count]


class _Counts(BaseModel):
    images: _Count
    attempts: _Count
    accepted: _Count
    anomalous: _Count
    controls: _Count
    rejected: dict[_Text, _Count]
    by_kind: dict[_Text, _Kind]
    splits: dict[_Text, _Split]
    test: _Test


class _Shard(_Split):
    file: Annotated[_Text, _is("the name of a shard", _SHARD_NAME.fullmatch)]
    role: Literal["samples", "rejects", "test"]
    bytes: _Count
    sha256: _Text
    content: _Text


class _Failure(BaseModel):
    name: _Text
    error: _Text


class _Reviews(BaseModel):
    """Decisions of people that went into a version; the counts are absent where it only refuses
    the edits that were rejected."""

    versions: list[_Text]
    refused: dict[_Text, list[_Text]]
    curated: _Text = ""
    reviewers: _Count = 0
    reviewed: _Count = 0
    reject: _Count = 0
    unsure: _Count = 0
    disputed: _Count = 0


class _Index(BaseModel):
    """What readers rely on; a file may hold more keys, which are not looked at."""

    category: Annotated[_Text, _is("the name of a folder", is_plain_name)]
    image_size: Annotated[list[_Count], _is("height and width of an image", _is_size)]
    digest: _Digest
    plan_digest: _Digest
    counts: _Counts
    shards: list[_Shard]
    version: _VersionName
    parent: _VersionName | None
    profile: _Text
    licence: _Text
    settings: dict[_Text, Any]
    weights: dict[_Text, _Text]
    code_version: _Text
    failures: list[_Failure]
    digests: dict[_Text, _Text]
    reviews: _Reviews | None = None
