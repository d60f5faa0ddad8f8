"""`anomalysmith rules`: draft a rule book from good images, check it, show it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import Json, answer, quiet_output, remark, table
from flows.jobs.category_options import Choices, settings_of
from pipeline.errors import UserError

rules_app = typer.Typer(
    name="rules",
    no_args_is_help=True,
    help="What a good product has to have: draft it from good images, check it, show it.",
)

Manifest = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What to read and make.  [default: data_manifest.yaml]"),
]
Category = Annotated[
    str | None, typer.Option(metavar="NAME", help="Which category; needed where there are several.")
]
Source = Annotated[
    str | None,
    typer.Option(metavar="KIND:PATH", help="One folder in place of the manifest's sources."),
]
Book = Annotated[
    Path, typer.Argument(metavar="FILE", help="The rule book (YAML).", show_default=False)
]


@rules_app.command("draft")
def draft_command(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The rule book to write (YAML).")],
    manifest: Manifest = None,
    category: Category = None,
    source: Source = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Good images to learn from.  [default: 60]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing book.")] = False,
    as_json: Json = False,
) -> None:
    """Learn from the training normals which parts there are, how many and where, and write it down.

    Beside FILE come its examples (.safetensors) and a contact sheet (.png) to name the parts by.
    """
    from pipeline.generation.rulebook_check import MANY, good_images, part_finder
    from pipeline.rulebook.draft import draft
    from pipeline.rulebook.write import write_draft

    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"--out names a YAML file such as bolts.rules.yaml, got {out}")
    if out.exists() and not force:
        raise UserError(f"{out} exists, perhaps with your corrections; --force writes over it")
    with quiet_output(as_json):
        settings = _settings(manifest, category, source)
        find = part_finder(settings)
        images, found = [], []
        for number, (_, image_HW3) in enumerate(good_images(settings, ("train",), limit or MANY)):
            images.append(image_HW3)
            found.append(find(image_HW3))
            if (number + 1) % 10 == 0:
                remark(f"{number + 1} images seen")
        made = draft(found, settings.name)
        files = write_draft(made, out, found, images.__getitem__)
    content: dict[str, Any] = {
        "category": settings.name,
        "images": len(images),
        "files": [str(path) for path in files],
        "parts": {name: _count(part) for name, part in made.book.parts.items()},
        "rules": list(made.book.names()),
        "not_used": {str(row): why for row, why in made.not_used.items()},
    }
    rows = [
        (name, _count(part), _place(part), made.remarks[part.kinds[0]])
        for name, part in made.book.parts.items()
    ]
    lines = [table(("part", "count", "place", "seen"), rows)]
    lines += [f"not used: row {row}, {why}" for row, why in made.not_used.items()]
    lines += [f"wrote {path}" for path in files]
    answer(content, as_json, "\n".join(lines))


@rules_app.command("check")
def check_command(
    book: Book,
    version: Annotated[
        Path | None,
        typer.Argument(
            metavar="[VERSION_DIR]",
            help="A version whose originals and samples are asked.",
            show_default=False,
        ),
    ] = None,
    manifest: Manifest = None,
    category: Category = None,
    source: Source = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only N normals.  [default: 60]")
    ] = None,
    as_json: Json = False,
) -> None:
    """How many normals keep every rule, and do samples break exactly theirs?

    Without VERSION_DIR the validation normals of the source are asked, which a draft never saw.
    """
    from pipeline.dataset.version import open_version
    from pipeline.generation.rulebook_check import (
        MANY,
        check_normals,
        check_version,
        good_images,
        part_finder,
    )
    from pipeline.rulebook.book import load

    with quiet_output(as_json):
        loaded = load(book)
        if version is not None:
            from pipeline.generation.reproduce import models_of
            from pipeline.rulebook.parts import finder

            opened = open_version(version)
            agreement = check_version(loaded, finder(models_of(opened)), opened, limit)
        else:
            settings = _settings(manifest, category, source)
            images = good_images(settings, ("validation",), limit or MANY)
            agreement = check_normals(loaded, part_finder(settings), images)
    content = agreement.to_json()
    lines = [
        f"{agreement.keep} of {agreement.normals} normals keep every rule "
        f"(false alarms {agreement.false_alarms:.0%})"
    ]
    lines += [
        f"  {name}: " + "; ".join(f"{rule} ({why})" for rule, why in broken.items())
        for name, broken in agreement.faults.items()
    ]
    if agreement.samples:
        lines.append(
            f"{agreement.as_labelled} of {agreement.samples} samples break exactly their rule"
        )
        lines += [
            f"  {name}: {', '.join(rules) or 'no rule'}" for name, rules in agreement.others.items()
        ]
    elif version is not None:
        lines.append("no sample names a rule: the version was made without a rule book")
    answer(content, as_json, "\n".join(lines))


@rules_app.command("show")
def show_command(book: Book, as_json: Json = False) -> None:
    """Check a rule book and list its rules."""
    from pipeline.rulebook.book import load

    with quiet_output(as_json):
        loaded = load(book)
    content = {
        "category": loaded.book.category,
        "digest": loaded.digest,
        "parts": {name: _count(part) for name, part in loaded.book.parts.items()},
        "rules": list(loaded.book.names()),
    }
    rows = [(name, _count(part), _place(part)) for name, part in loaded.book.parts.items()]
    lines = [table(("part", "count", "place"), rows), f"rules: {', '.join(loaded.book.names())}"]
    answer(content, as_json, "\n".join(lines))


def _settings(manifest: Path | None, category: str | None, source: str | None) -> Any:
    """The one category that was meant, its scenes rendered."""
    from flows.jobs.example_scenes import ensure_rendered

    names = [category] if category else []
    found = settings_of(Choices(manifest=manifest, categories=names, source=source))
    if len(found) != 1:
        names = [settings.name for settings in found]
        raise UserError(f"name one category: --category {' or '.join(names)}")
    ensure_rendered(found[0])
    return found[0]


def _count(part: Any) -> str:
    low, high = part.admitted
    if isinstance(part.count, str):
        return "any"
    return str(low) if low == high else f"{low}-{high}"


def _place(part: Any) -> str:
    if isinstance(part.place, str):
        return str(part.place)
    return "a box" if part.place.box else f"{len(part.place.slots)} slots"
