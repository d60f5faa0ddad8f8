"""YAML with line numbers: every error in a manifest is reported as FILE:LINE: key: message.

Only a strict subset of YAML is accepted. Duplicate keys, tabs, tags, dates and several documents
are errors, because they are nearly always accidents.
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

# Deeper nesting can only be an alias that contains itself.
MAX_DEPTH = 20
# Brackets open at once. The parser's time grows with the square of their number.
MAX_BRACKETS = 100
# Values after every alias is expanded. A few lines of nested aliases can stand for billions.
MAX_VALUES = 200_000

# The path to a value in the document, such as ("categories", "nut", "path").
Keys = tuple[str | int, ...]

# The most frequent messages of pydantic, reworded for people who write YAML.
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


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed YAML file with the line of every key."""

    path: Path
    content: Any

    def as_json(self) -> str:
        """The content as JSON text, for pydantic's strict validation."""
        return json.dumps(_plain(self, self.content, (), count(1)))

    def line(self, keys: Keys) -> int:
        """Line (from 1) of the key, or of its deepest parent that is in the file."""
        node, line = self.content, 0
        for key in keys:
            if not isinstance(node, CommentedMap | CommentedSeq):
                break
            # Merged keys (`<<`) have no line of their own; the parent's line is used.
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
        raise ManifestError(f"{path}: there is no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; a manifest is a YAML file") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> Document:
    """The same from text; `path` is what errors name."""
    # Before parsing: count how many brackets are open at once.
    depths = accumulate((letter in "[{") - (letter in "]}") for letter in text if letter in "[]{}")
    if max(depths, default=0) > MAX_BRACKETS:
        raise ManifestError(f"{path}: not YAML (over {MAX_BRACKETS} brackets are open at once)")
    # The round-trip loader is the one that keeps line numbers.
    try:
        content = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        raise ManifestError(_syntax(path, text, error)) from None
    # A TypeError comes from a key that is a mapping, such as a tag in front of one makes.
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ManifestError(f"{path}: not YAML ({_first_line(error)})") from None
    if not isinstance(content, CommentedMap):
        found = "nothing" if content is None else _kind_of(content)
        raise ManifestError(f"{path}:1: expected keys such as `categories:`, got {found}")
    return Document(path, content)


def explain(error: ValidationError, document: Document | None, model: type[BaseModel]) -> str:
    """One line per error, in the order of the file.

    `document` is None for values that come from options; then the lines begin with the key. `model`
    is the schema that the keys are looked up in for suggestions.
    """
    found: dict[Keys, str] = {}
    for fault in error.errors(include_url=False):
        # Pydantic appends "[key]" where a key of a mapping, not its value, is wrong.
        keys = tuple(key for key in fault["loc"] if key != "[key]")
        found.setdefault(keys, _message(fault, keys, model))
    # Pydantic also reports a list with an invalid entry as too short. Keep the entry only.
    inner = {keys[:depth] for keys in found for depth in range(len(keys))}
    found = {keys: text for keys, text in found.items() if keys not in inner}
    if document is None:
        return "\n".join(f"{'.'.join(map(str, keys))}: {text}" for keys, text in found.items())
    ordered = sorted(found.items(), key=lambda item: document.line(item[0]))
    return "\n".join(document.at(keys, text) for keys, text in ordered)


def first_error(error: ValidationError, default: str = "", show_input: bool = True) -> str:
    """The first thing that pydantic found wrong, in one line: `key: message, got value`.

    For settings that come from options or files of this program, where one error is enough.
    `default` names the whole content, for errors that concern no single key. `show_input` appends
    the value.
    """
    fault = error.errors(include_url=False)[0]
    where = ".".join(map(str, fault["loc"])) or default
    text = f"{where}: {fault['msg']}" if where else str(fault["msg"])
    return f"{text}, got {fault['input']!r}" if show_input else text


def did_you_mean(word: str, known: list[str]) -> str:
    """`; did you mean X?` for the most similar known word, or an empty string."""
    # The similarity is 1 for equal words; difflib's default of 0.6 suggests more distant ones.
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _message(fault: Any, keys: Keys, model: type[BaseModel]) -> str:
    kind, value = fault["type"], fault.get("input")
    if kind == "extra_forbidden":
        known = _keys_at(model, keys[:-1])
        hint = did_you_mean(str(keys[-1]), known) or f"; known: {', '.join(known)}"
        return _WORDING[kind] + hint
    if kind == "string_pattern_mismatch":
        return f"use letters, digits, . _ - in a name, got {value!r}"
    # Pydantic's own wording otherwise, without the prefix that it adds to errors of validators.
    text = _WORDING.get(kind) or fault["msg"].removeprefix("Value error, ")
    text = text.replace("Input should be", "expected", 1)
    text = text[:1].lower() + text[1:]
    # A missing key has no value, and printing a whole mapping would fill the screen.
    if kind == "missing" or isinstance(value, Mapping | BaseModel):
        return text
    hint = ""
    # The allowed values are only available as text: "'a', 'b' or 'c'".
    if kind == "literal_error" and isinstance(value, str):
        hint = did_you_mean(value, [word.strip("'") for word in fault["ctx"]["expected"].replace(
            " or ", ", ").split(", ")])  # fmt: skip
    return f"{text}, got {value!r}{hint}"


def _keys_at(model: type[BaseModel], keys: Keys) -> list[str]:
    """The keys that the schema has below a path; empty where it has none."""
    here: Any = model
    # Walk down the annotations: a field of a model, or the values of a dict.
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
    """The node as JSON types; anything else (dates, tags, keys that are not text) is an error.

    `seen` counts the values, aliases expanded.
    """
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
    # Python converts integers of up to 4300 digits to text and raises beyond.
    if isinstance(node, int) and node.bit_length() > 1024:
        raise ManifestError(document.at(keys, "a number of more than 300 digits"))
    for plain in (int, float, str):
        if isinstance(node, plain):
            # ruamel's number and text classes store their notation; only the value is kept.
            return bool(node) if type(node).__name__ == "ScalarBoolean" else plain(node)
    message = f"expected plain text or a number, got {_kind_of(node)}"
    raise ManifestError(document.at(keys, message))


def _kind_of(node: Any) -> str:
    """What a node is, in words for an error message."""
    names = {"CommentedSeq": "a list", "date": "a date", "TimeStamp": "a time"}
    return names.get(type(node).__name__, "a tag (!...)" if hasattr(node, "tag") else "plain text")


def _syntax(path: Path, text: str, error: MarkedYAMLError) -> str:
    """FILE:LINE: message for a syntax error; frequent causes get a message of their own."""
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
