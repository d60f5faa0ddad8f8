"""`anomalysmith rules`: draft a rule book from good images, check it, show it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import (
    AllNormal,
    Json,
    is_standard_output,
    print_note,
    print_result,
    stdout_to_stderr,
)
from pipeline.errors import UserError
from pipeline.utils.text_table import table

rules_app = typer.Typer(
    name="rules",
    no_args_is_help=True,
    help="Rule books of what a good product must have: draft from good images, check, show.",
)

Manifest = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The manifest.  [default: data_manifest.yaml]"),
]
Category = Annotated[
    str | None, typer.Option(metavar="NAME", help="The category; required if there are several.")
]
Source = Annotated[
    str | None,
    typer.Option(metavar="KIND:PATH", help="One folder instead of the manifest's sources."),
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
    all_normal: AllNormal = False,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Good images to learn from.  [default: 60]"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing rule book.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Learn from training normals which parts there are, how many and where; write a rule book.

    Also writes its examples (.safetensors) and a contact sheet (.png) beside FILE, so that you can
    name the parts.
    """
    from pipeline.generation.rulebook_check import DEFAULT_LIMIT, good_images
    from pipeline.generation.study import finder_for
    from pipeline.rulebook.second_look import draft_twice
    from pipeline.rulebook.write import write_draft

    if is_standard_output(out):
        raise UserError(
            "a rule book has its examples beside it, so --out must be a file such as "
            "bolts.rules.yaml, not standard output"
        )
    if out.suffix not in (".yaml", ".yml"):
        raise UserError(f"expected --out with a YAML file such as bolts.rules.yaml, got {out}")
    # Drafts are corrected by hand, so none is overwritten by accident.
    if out.exists() and not force:
        raise UserError(f"{out} exists, perhaps with your corrections; --force overwrites it")
    with stdout_to_stderr(as_json):
        settings = _settings(manifest, category, source, all_normal)
        # What a run has found, or the models of a run.
        find = finder_for(settings)
        # Images are kept for the contact sheet.
        images, found = [], []
        # Where the cache has no analysis it takes about a second per image: show that it goes on.
        for number, (_, image_HW3) in enumerate(
            good_images(settings, find, ("train",), limit or DEFAULT_LIMIT)
        ):
            images.append(image_HW3)
            found.append(find(image_HW3))
            if (number + 1) % 10 == 0:
                print_note(f"{number + 1} images analysed")
        # Learn the rules, then write book, examples and contact sheet.
        made, found = draft_twice(found, images.__getitem__, find, settings.name)
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
    # Clusters that are too rare or too irregular for a rule, by their row in the contact sheet.
    lines += [f"not used: row {row}, {why}" for row, why in made.not_used.items()]
    lines += [f"wrote {path}" for path in files]
    print_result(content, as_json, "\n".join(lines))


@rules_app.command("check")
def check_command(
    book: Book,
    version: Annotated[
        Path | None,
        typer.Argument(
            metavar="[VERSION_DIR]",
            help="A version whose originals and samples are checked.",
            show_default=False,
        ),
    ] = None,
    manifest: Manifest = None,
    category: Category = None,
    source: Source = None,
    all_normal: AllNormal = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Check N normals only.  [default: 60]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count the normals that keep every rule, and the samples that break exactly their own.

    Without VERSION_DIR the validation normals of the source are checked, which no draft has seen.
    """
    from pipeline.dataset.version import open_version
    from pipeline.generation.rulebook_check import (
        DEFAULT_LIMIT,
        check_normals,
        check_version,
        good_images,
    )
    from pipeline.generation.study import finder_for, finder_of_version
    from pipeline.rulebook.book import load

    with stdout_to_stderr(as_json):
        loaded = load(book)
        if version is not None:
            # The models of the version, not those of today: its samples were judged with them.
            from pipeline.generation.reproduce import models_of

            opened = open_version(version)
            find = finder_of_version(opened, lambda: models_of(opened))
            agreement = check_version(loaded, find, opened, limit)
        else:
            settings = _settings(manifest, category, source, all_normal)
            find = finder_for(settings)
            images = good_images(settings, find, ("validation",), limit or DEFAULT_LIMIT)
            agreement = check_normals(loaded, find, images)
    content = agreement.to_json()
    lines = [
        f"{agreement.keep} of {agreement.normals} normals keep every rule "
        f"(false positives {agreement.false_alarms:.0%})"
    ]
    lines += [
        f"  {name}: " + "; ".join(f"{rule} ({why})" for rule, why in broken.items())
        for name, broken in agreement.faults.items()
    ]
    # Samples have a rule only if the version was generated with a rule book.
    if agreement.samples:
        lines.append(
            f"{agreement.as_labelled} of {agreement.samples} samples break exactly their rule"
        )
        lines += [
            f"  {name}: {', '.join(rules) or 'no rule'}" for name, rules in agreement.others.items()
        ]
    elif version is not None:
        lines.append("no sample has a rule: the version was generated without a rule book")
    print_result(content, as_json, "\n".join(lines))


@rules_app.command("show")
def show_command(book: Book, as_json: Json = False) -> None:
    """Check a rule book and list its rules."""
    from pipeline.rulebook.book import load

    with stdout_to_stderr(as_json):
        loaded = load(book)
    content = {
        "category": loaded.book.category,
        "digest": loaded.digest,
        "parts": {name: _count(part) for name, part in loaded.book.parts.items()},
        "rules": list(loaded.book.names()),
    }
    rows = [(name, _count(part), _place(part)) for name, part in loaded.book.parts.items()]
    lines = [table(("part", "count", "place"), rows), f"rules: {', '.join(loaded.book.names())}"]
    print_result(content, as_json, "\n".join(lines))


def _settings(
    manifest: Path | None, category: str | None, source: str | None, all_normal: bool
) -> Any:
    """Settings of the one category that was named, or that the manifest has; scenes rendered."""
    from flows.jobs.category_options import Choices, settings_of
    from flows.jobs.example_scenes import ensure_rendered

    # The command works on one category: parts are learned per product.
    names = [category] if category else []
    found = settings_of(
        Choices(manifest=manifest, categories=names, source=source, all_normal=all_normal)
    )
    if len(found) != 1:
        names = [settings.name for settings in found]
        raise UserError(f"expected one category; name it by --category {' or '.join(names)}")
    ensure_rendered(found[0])
    return found[0]


def _count(part: Any) -> str:
    """Admitted number of parts: `any`, `3` or `2-4`."""
    low, high = part.admitted
    if isinstance(part.count, str):
        return "any"
    return str(low) if low == high else f"{low}-{high}"


def _place(part: Any) -> str:
    """Where a part may be: `any`, a box, or a number of slots."""
    if isinstance(part.place, str):
        return str(part.place)
    return "a box" if part.place.box else f"{len(part.place.slots)} slots"
