"""Schema of a rule book (YAML): which parts a product has, how many, where, and their appearance.

`anomalysmith rules draft` writes a draft from normal images. A person then renames parts, corrects
counts and deletes wrong rules. The examples by which parts are recognised are stored beside it in a
safetensors file, whose SHA-256 the book records.

Rules have names, because edits are labelled with them: `bolt.count`, `bolt.place`, `bolt.size`,
`bolt.colour`, `bolt.turn`, the names under `totals` and `together`, `order` and `unknown`.

Shapes: M examples; K groups of examples; V views; S values of a face; F features; D dimensions of
`part_kinds.space.Space`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from pipeline.errors import ManifestError, UserError
from pipeline.settings import Settings
from pipeline.utils.hashing import digest_of
from pipeline.utils.yaml_lines import Document, did_you_mean, explain, load_yaml, parse_yaml

# Upper bound of every count; "any" allows up to this.
MAX_COUNT = 10_000
# Names of the two rules that belong to no part.
ORDER, UNKNOWN = "order", "unknown"

# Names of parts and rules; a rule is called PART.RULE, so they hold no dot.
Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
Number = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Point = tuple[float, float]


def _rising(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    if pair[0] > pair[1]:
        raise ValueError(f"the first number must not be above the second, got {list(pair)}")
    return pair


# [least, greatest], both allowed.
CountRange = Annotated[tuple[Number, Number], AfterValidator(_rising)]
Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class Place(Settings):
    """Where the parts of a kind lie, in the product frame: inside a box, or one in each slot.

    Units are those of `ProductFrame`; `radius` is the tolerance of a slot.
    """

    box: tuple[float, float, float, float] | None = None
    slots: tuple[Point, ...] | None = Field(default=None, min_length=1)
    radius: float = Field(default=0.05, gt=0, le=2)

    @model_validator(mode="after")
    def _one_of_both(self) -> "Place":
        if (self.box is None) == (self.slots is None):
            raise ValueError("give either box: [x0, y0, x1, y1] or slots: [[x, y], ...]")
        if self.box is not None and (self.box[0] > self.box[2] or self.box[1] > self.box[3]):
            raise ValueError(f"a box is [x0, y0, x1, y1], left and top first, got {list(self.box)}")
        return self


class Colour(Settings):
    """Mean CIELAB colour, and the largest distance from it (CIE76) of a good part."""

    lab: tuple[float, float, float]
    within: float = Field(gt=0, le=200)


class Turn(Settings):
    """Orientation of a part: its long axis in degrees relative to the product, or its upright side.

    `around` and `within` bound the axis; `upright` is the smallest similarity to the mean face.
    """

    around: float | None = Field(default=None, ge=0, le=180)
    within: float = Field(default=15, gt=0, le=90)
    upright: float | None = Field(default=None, ge=-1, le=1)

    @model_validator(mode="after")
    def _something(self) -> "Turn":
        if self.around is None and self.upright is None:
            raise ValueError(
                "give around: DEGREES, or upright: the smallest similarity to the examples"
            )
        return self


class PartRules(Settings):
    """The rules of one kind of part; a rule whose line is deleted is not checked."""

    examples: int | tuple[int, ...]
    count: Number | CountRange | Literal["any"] = "any"
    place: Place | Literal["anywhere"] = "anywhere"
    size: Range | Literal["any"] = "any"
    colour: Colour | Literal["any"] = "any"
    turn: Turn | Literal["any"] = "any"

    @property
    def kinds(self) -> tuple[int, ...]:
        """The groups of examples that belong to this part."""
        return (self.examples,) if isinstance(self.examples, int) else self.examples

    @property
    def admitted(self) -> tuple[int, int]:
        """Smallest and largest allowed count."""
        if isinstance(self.count, str):
            return (0, MAX_COUNT)
        return (self.count, self.count) if isinstance(self.count, int) else self.count


class Total(Settings):
    """The total count of several kinds, for example exactly one of these labels."""

    name: Word
    parts: tuple[Word, ...] = Field(min_length=1)
    count: Number | CountRange

    @property
    def admitted(self) -> tuple[int, int]:
        """Smallest and largest allowed total."""
        return (self.count, self.count) if isinstance(self.count, int) else self.count


class Together(Settings):
    """Kinds that occur in equal numbers, for example a juice and the label with its fruit."""

    name: Word
    parts: tuple[Word, ...] = Field(min_length=2)


# Named by file and SHA-256, so that a book is never used with the examples of another one.
class Prototypes(Settings):
    """The safetensors file with the examples, in the folder of the book."""

    file: str = Field(pattern=r"^[^/\\]+$", max_length=255)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Book(Settings):
    """The whole YAML file."""

    version: Literal[1] = 1
    category: str
    drafted_from: int = Field(default=0, ge=0)
    prototypes: Prototypes
    # Where positions count from: the product's pose, or the image itself.
    frame: Literal["product", "image"] = "product"
    parts: dict[Word, PartRules] = Field(min_length=1)
    totals: tuple[Total, ...] = ()
    together: tuple[Together, ...] = ()
    order: bool = False
    unknown: bool = False

    def names(self) -> Iterator[str]:
        """The names of all rules that are checked, in the order of the file."""
        # A rule given as a word ("any", "anywhere") is switched off.
        for name, part in self.parts.items():
            for rule in ("count", "place", "size", "colour", "turn"):
                if not isinstance(getattr(part, rule), str):
                    yield f"{name}.{rule}"
        yield from (total.name for total in self.totals)
        yield from (pair.name for pair in self.together)
        if self.order:
            yield ORDER
        if self.unknown:
            yield UNKNOWN


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """The parts of normal images by which new parts are recognised, in units of their own noise.

    `vectors_MD` are examples, `kinds_M` the group of each. `limits_KV` is the distance of a good
    part to its nearest example, for K groups and V views (`recognition.VIEWS`). `faces_KS` are mean
    faces. `mean_F`, `basis_FD` and `scale_D` map a descriptor's vector into this space
    (`part_kinds.space.Space`).
    """

    vectors_MD: np.ndarray
    kinds_M: np.ndarray
    limits_KV: np.ndarray
    faces_KS: np.ndarray
    mean_F: np.ndarray
    basis_FD: np.ndarray
    scale_D: np.ndarray

    # Names of the tensors in the file; part of its format.
    FIELDS = (
        "vectors_MD", "kinds_M", "limits_KV", "faces_KS", "mean_F", "basis_FD", "scale_D",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class RuleBook:
    """A validated book with its examples.

    `digest` identifies its content; comments, layout and path do not matter.
    """

    book: Book
    examples: Examples
    digest: str


def load(path: Path) -> RuleBook:
    """Read and validate a rule book; ManifestError names file, line and key of the error."""
    document, book = _validated(load_yaml(Path(path)))
    file = Path(path).parent / book.prototypes.file
    if not file.is_file():
        raise ManifestError(
            document.at(
                ("prototypes", "file"), f"{file} is missing; it belongs in the rule book's folder"
            )
        )
    return _joined(document, book, file.read_bytes())


def parse(text: str, examples: bytes, path: Path) -> RuleBook:
    """The same from a text and the bytes of its examples; `path` is what errors name."""
    return _joined(*_validated(parse_yaml(text, path)), examples)


def parse_text(text: str, path: Path) -> Book:
    """The text alone, without its examples; `path` is what errors name."""
    return _validated(parse_yaml(text, path))[1]


def digest_of_file(path: Path) -> str:
    """The digest of a rule book file, see `RuleBook`; its examples count through their SHA-256."""
    return _digest(_validated(load_yaml(Path(path)))[1])


def pack(examples: Examples) -> bytes:
    """The examples as a safetensors file."""
    from safetensors.numpy import save

    # Safetensors needs contiguous arrays.
    return save({name: np.ascontiguousarray(getattr(examples, name)) for name in Examples.FIELDS})


def _joined(document: Document, book: Book, content: bytes) -> RuleBook:
    """A book with its examples, once they have been checked to belong together."""
    file, found = book.prototypes.file, sha256(content).hexdigest()
    if found != book.prototypes.sha256:
        raise ManifestError(
            document.at(
                ("prototypes", "sha256"),
                f"{file} has SHA-256 {found[:12]}..., expected "
                f"{book.prototypes.sha256[:12]}...; copy book and examples together",
            )
        )
    examples = _unpacked(content, document.path.parent / file)
    # Only now is the number of groups known.
    for name, part in book.parts.items():
        for kind in part.kinds:
            if not 0 <= kind < len(examples.limits_KV):
                raise ManifestError(
                    document.at(
                        ("parts", name, "examples"),
                        f"expected a group from 0 to {len(examples.limits_KV) - 1}, got {kind}",
                    )
                )
    return RuleBook(book, examples, _digest(book))


def _unpacked(content: bytes, path: Path) -> Examples:
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    try:
        tensors = load_tensors(content)
        return Examples(**{name: tensors[name] for name in Examples.FIELDS})
    except (SafetensorError, KeyError) as error:
        raise UserError(
            f"{path}: expected examples of parts, got {error}; draft the rule book again"
        ) from None


def _validated(document: Document) -> tuple[Document, Book]:
    try:
        # Strict JSON mode: a count given as text, or 1.0 for 1, is an error.
        book = Book.model_validate_json(document.as_json(), strict=True)
    except ValidationError as error:
        raise ManifestError(explain(error, document, Book)) from None
    _check_names(document, book)
    return document, book


def _check_names(document: Document, book: Book) -> None:
    """Parts that are referred to exist, no group belongs to two parts, no name occurs twice."""
    # Groups of examples.
    taken: dict[int, str] = {}
    for name, part in book.parts.items():
        for kind in part.kinds:
            if taken.setdefault(kind, name) != name:
                message = (
                    f"group {kind} already belongs to {taken[kind]}; remove it from one of them"
                )
                raise ManifestError(document.at(("parts", name, "examples"), message))
    # Parts and names in rules about several parts.
    lists: dict[str, tuple[Total | Together, ...]] = {
        "totals": book.totals,
        "together": book.together,
    }
    for key, entries in lists.items():
        for number, entry in enumerate(entries):
            for part_name in entry.parts:
                if part_name not in book.parts:
                    message = f"no part is called {part_name!r}"
                    message += did_you_mean(part_name, list(book.parts)) or (
                        f"; the parts are {', '.join(book.parts)}"
                    )
                    raise ManifestError(document.at((key, number, "parts"), message))
            if list(book.names()).count(entry.name) > 1:
                message = f"two rules are called {entry.name!r}; rename one"
                raise ManifestError(document.at((key, number, "name"), message))


def _digest(book: Book) -> str:
    # The number of images is information for people; it changes no verdict.
    return digest_of(book.model_dump(mode="json", exclude={"drafted_from"}))
