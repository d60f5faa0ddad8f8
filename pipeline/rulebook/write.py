"""Write a draft: the YAML that a person reviews and edits, the examples, and a contact sheet.

screw_bag.rules.yaml          counts, places, appearance, with comments on what was seen
screw_bag.rules.safetensors   the examples by which parts are recognised
screw_bag.rules.png           a row of examples per part, so that a person can name it
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.rulebook.book import (
    Book,
    PartRules,
    Place,
    Prototypes,
    RuleBook,
    load,
    pack,
    parse,
)
from pipeline.rulebook.draft import Draft
from pipeline.rulebook.parts import Parts
from pipeline.rulebook.sheet import contact_sheet, decode, encode, titled
from pipeline.utils.files import write_atomic

_HEAD = """\
# Rules of {category}, drafted from {images} normal images. Review and edit them: rename parts (also
# in `totals` and `together`), correct counts and places, delete wrong rules. {sheet} shows a
# row of examples per part. If two rows are one part, merge them: `examples: [0, 3]`.
#
#   count   5, or [4, 6], or any
#   place   box: [left, top, right, bottom], or slots: one part in each, or anywhere;
#           from the product's centre, x right and y down; unit: square root of its area
#   size    square root of the part's area, in the same unit; or any
#   colour  mean CIELAB and the largest distance from it; or any
#   turn    around/within: degrees of the long axis; upright: least similarity to the examples;
#           or any
#
# Rules are called {example}.count, {example}.place and so on; samples are labelled with them.
"""


@dataclass(frozen=True, slots=True, eq=False)
class BookFiles:
    """The three files of a rule book in memory: what a draft writes, and what a person edits.

    `sheet` is empty where there is no contact sheet.
    """

    text: str
    examples: bytes
    sheet: bytes = b""

    @classmethod
    def of(
        cls, draft: Draft, path: Path, found: Sequence[Parts], image: Callable[[int], np.ndarray]
    ) -> "BookFiles":
        """The files of a draft that is to be written to `path`.

        `image(k)` returns the uint8 pixels in which `found[k]` was found.
        """
        examples = pack(draft.examples)
        # The book names its examples by file and SHA-256.
        prototypes = Prototypes(
            file=path.with_suffix(".safetensors").name, sha256=sha256(examples).hexdigest()
        )
        book = draft.book.model_copy(update={"prototypes": prototypes})
        text = text_of(book, draft, path.with_suffix(".png").name)
        return cls(text, examples, encode(contact_sheet(draft, found, image)))

    @classmethod
    def read(cls, path: Path) -> "BookFiles":
        """The files of a rule book on disk; ManifestError where it is not valid."""
        book = load(path).book
        sheet = path.with_suffix(".png")
        return cls(
            path.read_text("utf-8"),
            (path.parent / book.prototypes.file).read_bytes(),
            sheet.read_bytes() if sheet.is_file() else b"",
        )

    def rules(self, path: Path) -> RuleBook:
        """The validated book; `path` is what errors name."""
        return parse(self.text, self.examples, path)

    def with_text(self, text: str, path: Path) -> "BookFiles":
        """The same with another text, and its names on the contact sheet."""
        if text == self.text:
            return self
        book = parse(text, self.examples, path).book
        sheet = encode(titled(decode(self.sheet), book)) if self.sheet else b""
        return replace(self, text=text, sheet=sheet)

    def write(self, path: Path) -> list[Path]:
        """Write book, examples and contact sheet into one folder; returns their paths."""
        named = self.rules(path).book.prototypes.file
        examples, sheet = path.with_suffix(".safetensors"), path.with_suffix(".png")
        if named != examples.name:
            # A book that was renamed by hand: its examples lie there already.
            examples = path.parent / named
            if not examples.is_file() or examples.read_bytes() != self.examples:
                raise UserError(f"{path} names the examples {named}, which are not beside it")
        else:
            # The examples first, as the book names their SHA-256.
            write_atomic(examples, self.examples)
        write_atomic(path, self.text.encode())
        if not self.sheet:
            return [path, examples]
        write_atomic(sheet, self.sheet)
        return [path, examples, sheet]


def write_draft(
    draft: Draft, path: Path, found: Sequence[Parts], image: Callable[[int], np.ndarray]
) -> list[Path]:
    """Write book, examples and contact sheet of a draft; returns the three paths."""
    return BookFiles.of(draft, Path(path), found, image).write(Path(path))


def text_of(book: Book, draft: Draft, sheet: str) -> str:
    """The YAML of a book, with comments for the person who reviews it; `sheet` is a file name."""
    first = next(iter(book.parts))
    lines = [
        _HEAD.format(
            category=book.category, images=book.drafted_from, sheet=sheet, example=first
        ).rstrip("\n"),
        f"version: {book.version}",
        f'category: "{book.category}"',
        f"drafted_from: {book.drafted_from}",
        f"prototypes: {{file: {book.prototypes.file!r}, sha256: {book.prototypes.sha256}}}",
        "frame: " + book.frame + "  # or image: places count from the image's centre",
        "",
        "parts:",
    ]
    # By hand instead of by a YAML library, which would drop the comments.
    for name, part in book.parts.items():
        lines += [f"  {name}:  # {draft.remarks.get(part.kinds[0], '')}".rstrip(" #")]
        lines += [f"    {line}" for line in _part_lines(part)]
    for key in ("totals", "together"):
        entries = getattr(book, key)
        if entries:
            lines += ["", f"{key}:  # {_MEANING[key]}"]
        for entry in entries:
            count = f", count: {_number(entry.count)}" if key == "totals" else ""
            lines.append(f"  - {{name: {entry.name}, parts: [{', '.join(entry.parts)}]{count}}}")
    lines += [
        "",
        f"order: {str(book.order).lower()}  # no slot holds a part of another kind",
        f"unknown: {str(book.unknown).lower()}  # no part is of an unknown kind",
    ]
    if draft.not_used:
        lines += [
            "",
            "# not used, because no rule was evident (still recognised, so not `unknown`):",
        ]
        lines += [f"#   row {index}: {why}" for index, why in sorted(draft.not_used.items())]
    return "\n".join(lines) + "\n"


_MEANING = {
    "totals": "total count of several kinds",
    "together": "these kinds occur in equal numbers",
}


def _part_lines(part: PartRules) -> Iterator[str]:
    yield f"examples: {_number(part.examples)}"
    yield f"count: {_number(part.count)}"
    if isinstance(part.place, str):
        yield f"place: {part.place}"
    elif part.place.box is not None:
        yield f"place: {{box: {list(part.place.box)}}}"
    else:
        yield from _slot_lines(part.place)
    yield f"size: {part.size if isinstance(part.size, str) else list(part.size)}"
    colour, turn = part.colour, part.turn
    if isinstance(colour, str):
        yield f"colour: {colour}"
    else:
        yield f"colour: {{lab: {list(colour.lab)}, within: {colour.within}}}"
    if isinstance(turn, str):
        yield f"turn: {turn}"
        return
    axis = [] if turn.around is None else [f"around: {turn.around}", f"within: {turn.within}"]
    side = [] if turn.upright is None else [f"upright: {turn.upright}"]
    yield f"turn: {{{', '.join(axis + side)}}}"


def _slot_lines(place: Place) -> Iterator[str]:
    slots = [f"[{x}, {y}]" for x, y in place.slots or ()]
    if len(slots) == 1:
        yield f"place: {{slots: [{slots[0]}], radius: {place.radius}}}"
        return
    yield "place:"
    yield f"  radius: {place.radius}"
    yield "  slots:"
    yield from (f"    - {slot}" for slot in slots)


def _number(value: int | str | tuple[int, ...]) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
