"""From YAML to plain values and back to the line: every mistake in a manifest names FILE:LINE: key.

YAML's own liberties are closed here: duplicate keys, tabs, tags, dates and several documents are
errors, because each of them is far more often a slip than a wish.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, count
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import ManifestError

MAX_DEPTH = 20
"""Nesting above this is an alias that contains itself."""

MAX_BRACKETS = 100
"""Opened brackets that YAML is given: its time grows with the square of their number."""

MAX_VALUES = 200_000
"""Values with every alias written out; a few lines of aliases of aliases can stand for billions."""

Keys = tuple[str | int, ...]

_WORDING = {
    "missing": "is missing; add it",
    "extra_forbidden": "unknown key",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "string_type": "expected text (put quotes around it)",
    "model_type": "expected keys and values below it",
    "dict_type": "expected keys and values below it",
    "tuple_type": "expected a list",
    "finite_number": "expected a finite number",
    "too_short": "needs at least one entry",
}
"""Pydantic's commonest words, said for people who write YAML."""


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed manifest that still knows its lines."""

    path: Path
    content: Any

    def as_json(self) -> str:
        """The content as JSON text, the form that is validated strictly."""
        return json.dumps(_plain(self, self.content, (), count(1)))

    def line(self, keys: Keys) -> int:
        """Line (from 1) of the deepest part of the dotted key that the file has."""
        node, line = self.content, 0
        for key in keys:
            if not isinstance(node, CommentedMap | CommentedSeq):
                break
            # Merged keys (`<<`) have no place of their own: their parent's line stands for them.
            place = node.lc.data.get(key) if node.lc.data else None
            if place is None:
                break
            line, node = place[0], node[key]
        return line + 1

    def at(self, keys: Keys, message: str) -> str:
        """`FILE:LINE: dotted.key: message`."""
        dotted = ".".join(map(str, keys)) or "the manifest"
        return f"{self.path}:{self.line(keys)}: {dotted}: {message}"


def load_yaml(path: Path) -> Document:
    """Parse one YAML file whose top is a mapping; ManifestError with the line when it is not."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no such manifest; check the path") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; a manifest is a YAML file") from None
    depths = accumulate((letter in "[{") - (letter in "]}") for letter in text if letter in "[]{}")
    if max(depths, default=0) > MAX_BRACKETS:
        raise ManifestError(f"{path}: not YAML (over {MAX_BRACKETS} brackets are open at once)")
    try:
        content = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        raise ManifestError(_syntax(path, text, error)) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: not YAML ({_first_line(error)})") from None
    if not isinstance(content, CommentedMap):
        came = "nothing" if content is None else _named(content)
        raise ManifestError(f"{path}:1: expected keys such as `categories:`, got {came}")
    return Document(path, content)


def explain(error: ValidationError, document: Document | None, model: type[BaseModel]) -> str:
    """One line per mistake, in the order of the file."""
    found: dict[Keys, str] = {}
    for fault in error.errors(include_url=False):
        keys = tuple(key for key in fault["loc"] if key != "[key]")
        found.setdefault(keys, _message(fault, keys, model))
    # A list with a wrong entry is also called too short: the entry alone is said.
    inner = {keys[:depth] for keys in found for depth in range(len(keys))}
    found = {keys: text for keys, text in found.items() if keys not in inner}
    if document is None:
        return "\n".join(f"{'.'.join(map(str, keys))}: {text}" for keys, text in found.items())
    ordered = sorted(found.items(), key=lambda item: document.line(item[0]))
    return "\n".join(document.at(keys, text) for keys, text in ordered)


def nearest(word: str, known: list[str]) -> str:
    """`; did you mean X?` for the known word that is closest, or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _message(fault: Any, keys: Keys, model: type[BaseModel]) -> str:
    kind, came = fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        known = _keys_at(model, keys[:-1])
        hint = nearest(str(keys[-1]), known) or f"; known: {', '.join(known)}"
        return _WORDING[kind] + hint
    if kind == "string_pattern_mismatch":
        return f"use letters, digits, . _ - in a name, got {came!r}"
    text = _WORDING.get(kind) or fault["msg"].removeprefix("Value error, ")
    text = text.replace("Input should be", "expected", 1)
    text = text[:1].lower() + text[1:]
    if kind == "missing" or isinstance(came, Mapping | BaseModel):
        return text
    hint = ""
    if kind == "literal_error" and isinstance(came, str):
        hint = nearest(came, [word.strip("'") for word in fault["ctx"]["expected"].replace(
            " or ", ", ").split(", ")])  # fmt: skip
    return f"{text}, got {came!r}{hint}"


def _keys_at(model: type[BaseModel], keys: Keys) -> list[str]:
    """The keys that the schema knows below a dotted key."""
    here: Any = model
    for key in keys:
        here = _model_of(here)
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields.get(str(key))
            here = field.annotation if field else None
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        else:
            return []
    here = _model_of(here)
    if isinstance(here, type) and issubclass(here, BaseModel):
        return list(here.model_fields)
    return []


def _model_of(annotation: Any) -> Any:
    """`Model | None` -> Model."""
    if get_origin(annotation) in (Union, UnionType):
        return next((part for part in get_args(annotation) if part is not type(None)), None)
    return annotation


def _plain(document: Document, node: Any, keys: Keys, seen: Iterator[int]) -> Any:
    """Only what JSON knows; everything else (dates, tags, odd keys) is an error with its line."""
    if len(keys) > MAX_DEPTH or next(seen) > MAX_VALUES:
        raise ManifestError(document.at(keys[:3], "nested too deeply; write aliases out"))
    if isinstance(node, CommentedMap):
        for key in node:
            if not isinstance(key, str):
                raise ManifestError(document.at((*keys, key), "put quotes around this key"))
        return {str(key): _plain(document, node[key], (*keys, key), seen) for key in node}
    if isinstance(node, CommentedSeq):
        return [_plain(document, item, (*keys, number), seen) for number, item in enumerate(node)]
    if node is None or isinstance(node, bool):
        return node
    if isinstance(node, int) and node.bit_length() > 1024:  # Python writes out 4300 digits at most
        raise ManifestError(document.at(keys, "a number of more than 300 digits"))
    for plain in (int, float, str):
        if isinstance(node, plain):
            # YAML's own number and text classes remember their notation; that is not needed here.
            return bool(node) if type(node).__name__ == "ScalarBoolean" else plain(node)
    message = f"expected plain text or a number, got {_named(node)}"
    raise ManifestError(document.at(keys, message))


def _named(node: Any) -> str:
    names = {"CommentedSeq": "a list", "date": "a date", "TimeStamp": "a time"}
    return names.get(type(node).__name__, "a tag (!...)" if hasattr(node, "tag") else "plain text")


def _syntax(path: Path, text: str, error: MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    problem = _first_line(error.problem or error)
    if isinstance(error, DuplicateKeyError):
        problem = f"{problem.split(' with ')[0]}; keep one of them"
    elif "\t" in text.split("\n")[min(line, text.count("\n") + 1) - 1]:
        problem = "a tab; YAML is indented with spaces"
    elif "single document" in str(error):
        problem = "a second document (---); a manifest is one document"
    return f"{path}:{line}: {problem}"


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0]
