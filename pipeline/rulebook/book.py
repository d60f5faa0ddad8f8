"""A rule book: which parts a product has, how many, where and how they look. YAML, made to be read.

`anomalysmith rules draft` writes it from good images; a person renames parts, corrects counts and
strikes out what is wrong. What no person edits, the examples that parts are recognised by, lies
beside it in a safetensors file whose SHA-256 the book names.

Rules have names, because edits are labelled with them: `bolt.count`, `bolt.place`, `bolt.size`,
`bolt.colour`, `bolt.turn`, the names under `totals` and `together`, `order` and `unknown`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from pipeline.errors import ManifestError, UserError
from pipeline.settings import Settings
from pipeline.utils.hashing import digest_of, sha256_file
from pipeline.utils.yaml_lines import Document, explain, load_yaml, nearest

MAX_COUNT = 10_000
ORDER, UNKNOWN = "order", "unknown"
"""Names of the two rules that belong to no part."""

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)]
Number = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Point = tuple[float, float]


def _rising(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    if pair[0] > pair[1]:
        raise ValueError(f"the first number must not be above the second, got {list(pair)}")
    return pair


CountRange = Annotated[tuple[Number, Number], AfterValidator(_rising)]
Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class Place(Settings):
    """Where the parts of a kind lie, in the product's frame: inside a box, or one in each slot."""

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
    """Mean CIELAB colour and how far from it (CIE76) a good part may be."""

    lab: tuple[float, float, float]
    within: float = Field(gt=0, le=200)


class Turn(Settings):
    """How a part lies: its long axis in degrees against the product's, or which side is up."""

    around: float | None = Field(default=None, ge=0, le=180)
    within: float = Field(default=15, gt=0, le=90)
    upright: float | None = Field(default=None, ge=-1, le=1)

    @model_validator(mode="after")
    def _something(self) -> "Turn":
        if self.around is None and self.upright is None:
            raise ValueError("give around: DEGREES, or upright: the least likeness to the examples")
        return self


class PartRules(Settings):
    """What holds for one kind of part; a line that is struck out is a rule that is not asked."""

    examples: int | tuple[int, ...]
    count: Number | CountRange | Literal["any"] = "any"
    place: Place | Literal["anywhere"] = "anywhere"
    size: Range | Literal["any"] = "any"
    colour: Colour | Literal["any"] = "any"
    turn: Turn | Literal["any"] = "any"

    @property
    def kinds(self) -> tuple[int, ...]:
        """The groups of examples that mean this part."""
        return (self.examples,) if isinstance(self.examples, int) else self.examples

    @property
    def admitted(self) -> tuple[int, int]:
        """Least and greatest count."""
        if isinstance(self.count, str):
            return (0, MAX_COUNT)
        return (self.count, self.count) if isinstance(self.count, int) else self.count


class Total(Settings):
    """How many parts of several kinds there are in sum: exactly one of these labels, say."""

    name: Word
    parts: tuple[Word, ...] = Field(min_length=1)
    count: Number | CountRange

    @property
    def admitted(self) -> tuple[int, int]:
        """Least and greatest sum."""
        return (self.count, self.count) if isinstance(self.count, int) else self.count


class Together(Settings):
    """Kinds of which there are equally many: the juice and the label with its fruit."""

    name: Word
    parts: tuple[Word, ...] = Field(min_length=2)


class Prototypes(Settings):
    """The file of examples, beside the book."""

    file: str = Field(pattern=r"^[^/\\]+$", max_length=255)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Book(Settings):
    """The whole YAML file."""

    version: Literal[1] = 1
    category: str
    drafted_from: int = Field(default=0, ge=0)
    prototypes: Prototypes
    frame: Literal["product", "image"] = "product"
    parts: dict[Word, PartRules] = Field(min_length=1)
    totals: tuple[Total, ...] = ()
    together: tuple[Together, ...] = ()
    order: bool = False
    unknown: bool = False

    def names(self) -> Iterator[str]:
        """Every rule that is asked, in the order of the file."""
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
    """What parts are recognised by: described parts of good images, in units of their own noise.

    `vectors_MD` are examples, `kinds_M` the group of each; `limits_KV` says for K groups and V
    views (`rules_kinds.VIEWS`), how far a good part is from its nearest example; `faces_KS` are
    mean faces. `mean_F`, `basis_FD` and `scale_D` bring a look's vector there
    (`rules_kinds.Space`).
    """

    vectors_MD: np.ndarray
    kinds_M: np.ndarray
    limits_KV: np.ndarray
    faces_KS: np.ndarray
    mean_F: np.ndarray
    basis_FD: np.ndarray
    scale_D: np.ndarray

    FIELDS = (
        "vectors_MD", "kinds_M", "limits_KV", "faces_KS", "mean_F", "basis_FD", "scale_D",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class RuleBook:
    """A checked book with its examples. `digest` is what it says, not its comments or its place."""

    book: Book
    examples: Examples
    digest: str


def load(path: Path) -> RuleBook:
    """Read and check a rule book; ManifestError names file, line and key of every mistake."""
    document, book = _read(Path(path))
    file = Path(path).parent / book.prototypes.file
    if not file.is_file():
        raise ManifestError(
            document.at(
                ("prototypes", "file"), f"{file} is missing; it belongs beside the rule book"
            )
        )
    found = sha256_file(file)
    if found != book.prototypes.sha256:
        raise ManifestError(
            document.at(
                ("prototypes", "sha256"),
                f"{file.name} has SHA-256 {found[:12]}..., the book names "
                f"{book.prototypes.sha256[:12]}...; copy book and examples together",
            )
        )
    examples = _examples(file)
    for name, part in book.parts.items():
        for kind in part.kinds:
            if not 0 <= kind < len(examples.limits_KV):
                raise ManifestError(
                    document.at(
                        ("parts", name, "examples"),
                        f"there are groups 0 to {len(examples.limits_KV) - 1}, got {kind}",
                    )
                )
    return RuleBook(book, examples, _digest(book))


def digest_of_file(path: Path) -> str:
    """Identity of a rule book: what it says and its examples, not comments, layout or place."""
    return _digest(_read(Path(path))[1])


def save_examples(examples: Examples, path: Path) -> str:
    """Write the examples and return the file's SHA-256."""
    from safetensors.numpy import save

    from pipeline.utils.files import write_whole

    tensors = {name: np.ascontiguousarray(getattr(examples, name)) for name in Examples.FIELDS}
    write_whole(path, save(tensors))
    return sha256_file(path)


def _examples(path: Path) -> Examples:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        return Examples(**{name: tensors[name] for name in Examples.FIELDS})
    except (SafetensorError, KeyError, OSError) as error:
        raise UserError(f"{path} does not hold examples of parts ({error}); draft again") from None


def _read(path: Path) -> tuple[Document, Book]:
    document = load_yaml(path)
    try:
        book = Book.model_validate_json(document.as_json(), strict=True)
    except ValidationError as error:
        raise ManifestError(explain(error, document, Book)) from None
    _check_names(document, book)
    return document, book


def _check_names(document: Document, book: Book) -> None:
    """Parts spoken of must be there, no examples mean two parts, no name is given twice."""
    taken: dict[int, str] = {}
    for name, part in book.parts.items():
        for kind in part.kinds:
            if taken.setdefault(kind, name) != name:
                message = f"examples {kind} are {taken[kind]} already; one of both must go"
                raise ManifestError(document.at(("parts", name, "examples"), message))
    lists: dict[str, tuple[Total | Together, ...]] = {
        "totals": book.totals,
        "together": book.together,
    }
    for key, entries in lists.items():
        for number, entry in enumerate(entries):
            for part_name in entry.parts:
                if part_name not in book.parts:
                    message = f"no part is called {part_name!r}"
                    message += nearest(part_name, list(book.parts)) or (
                        f"; the parts are {', '.join(book.parts)}"
                    )
                    raise ManifestError(document.at((key, number, "parts"), message))
            if list(book.names()).count(entry.name) > 1:
                message = f"two rules are called {entry.name!r}; rename one"
                raise ManifestError(document.at((key, number, "name"), message))


def _digest(book: Book) -> str:
    return digest_of(book.model_dump(mode="json", exclude={"drafted_from"}))
