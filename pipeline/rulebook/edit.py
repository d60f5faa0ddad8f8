"""Edit the YAML of a rule book as a person would by hand: comments and layout stay.

    text = rename_part(text, "part_1", "bolt")
    text = set_rule(text, "bolt", "count", [4, 6])

Every function returns the new text, or raises a UserError that says what is wrong; the result is
checked against the schema. Without a change the text is returned as it is, byte for byte.
"""

import io
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from pipeline.errors import UserError
from pipeline.rulebook.book import Word, parse_text
from pipeline.utils.yaml_lines import did_you_mean

# What a person sets; ranges of size, colour and orientation are measured.
Rule = Literal["count", "place"]

# A line is never folded: a diff shows the lines that were edited and no others.
_WIDTH = 100_000


def rename_part(text: str, old: str, new: str) -> str:
    """Give a part another name, in `totals` and `together` too."""
    document = _load(text)
    parts = document["parts"]
    _require(parts, old)
    if new == old:
        return text
    try:
        TypeAdapter(Word).validate_python(new)
    except ValidationError:
        raise UserError(
            f"expected a name of letters, digits, _ and - (at most 60), got {new!r}"
        ) from None
    if new in parts:
        raise UserError(f"there is a part {new} already; choose another name for {old}")
    # At the same position, with the comment behind it.
    place, comment = list(parts).index(old), parts.ca.items.pop(old, None)
    parts.insert(place, new, parts.pop(old))
    if comment is not None:
        parts.ca.items[new] = comment
        # As far behind the name as it was.
        for token in filter(None, comment[2:3]):
            token.column += len(new) - len(old)
    for entry in (*(document.get("totals") or ()), *(document.get("together") or ())):
        entry["parts"][:] = [new if name == old else name for name in entry["parts"]]
    edited = _dump(document)
    # The example in the head of a draft.
    return _checked(re.sub(
        rf"^# Rules are called {re.escape(old)}\.count, {re.escape(old)}\.place ",
        f"# Rules are called {new}.count, {new}.place ", edited, flags=re.MULTILINE,
    ))  # fmt: skip


def set_rule(text: str, part: str, rule: Rule, value: Any) -> str:
    """Set the count or the place of a part; `value` is what JSON has: `3`, `[2, 4]`, `"any"`, or
    `"anywhere"`, `{"box": [x0, y0, x1, y1]}`, `{"slots": [[x, y], ...], "radius": r}`."""
    document = _load(text)
    rules = _require(document["parts"], part)
    if rules.get(rule) == value:
        return text
    fresh = _flow(value)
    if rule in rules:
        rules[rule] = fresh
    else:
        # A deleted line comes back where a draft has it: below the examples.
        rules.insert(1, rule, fresh)
    return _checked(_dump(document))


def _require(parts: CommentedMap, name: str) -> CommentedMap:
    """The rules of a part; UserError where there is none of that name."""
    if name not in parts:
        hint = did_you_mean(name, list(parts)) or f"; the parts are {', '.join(parts)}"
        raise UserError(f"no part is called {name!r}{hint}")
    return parts[name]


def _flow(value: Any) -> Any:
    """Lists and mappings on one line, as in a draft; several slots one below the other."""
    if isinstance(value, dict):
        node = CommentedMap({key: _flow(content) for key, content in value.items()})
        slots = value.get("slots")
        if isinstance(slots, list) and len(slots) > 1:
            # In the order of a draft.
            node = CommentedMap({key: node[key] for key in sorted(node)})
            node["slots"].fa.set_block_style()
        else:
            node.fa.set_flow_style()
        return node
    if isinstance(value, list):
        items = CommentedSeq([_flow(content) for content in value])
        items.fa.set_flow_style()
        return items
    return value


def _checked(text: str) -> str:
    try:
        parse_text(text, Path("rules"))
    except UserError as error:
        # The line is one of a text that the reader has not seen.
        raise UserError(re.sub(r"^rules:\d+: ", "", str(error), flags=re.MULTILINE)) from None
    return text


def _yaml() -> YAML:
    yaml = YAML(typ="rt", pure=True)
    yaml.width = _WIDTH
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _load(text: str) -> CommentedMap:
    # Validated first: a hand-edited book may be anything.
    _checked(text)
    content: CommentedMap = _yaml().load(text)
    return content


def _dump(document: CommentedMap) -> str:
    buffer = io.StringIO()
    _yaml().dump(document, buffer)
    return buffer.getvalue()
