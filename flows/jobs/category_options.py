"""Settings of each category from the arguments of a command or a deployment.

The manifest comes first, then the arguments override it. Command line and Prefect flow share this,
so the same arguments mean the same run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config.manifest import manifest_for_source, override, read_manifest, resolve
from pipeline.config.schema import CategoryEntry, CategorySettings
from pipeline.errors import UserError
from pipeline.models.settings import ModelSettings
from pipeline.settings import as_size
from pipeline.utils.yaml_lines import first_error

MANIFEST = Path("data_manifest.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Arguments that override the manifest; None keeps the manifest's value.

    `publishes` is True where versions of the categories will be made.
    """

    manifest: Path | None = None
    categories: Sequence[str] = ()
    source: str | None = None
    store: Path | None = None
    preset: str | None = None
    per_image: int | None = None
    seed: int | None = None
    image_size: str | None = None
    device: str | None = None
    inpaint: str | None = None
    follow_links: Path | None = None
    reviews: Path | None = None
    other_products: Path | None = None
    all_normal: bool = False
    publishes: bool = False


def settings_of(choices: Choices) -> list[CategorySettings]:
    """The settings of the named categories in order; of all categories when none is named.

    Raises UserError (ManifestError, SourceError) for a manifest or an argument that is not valid.
    """
    # A folder replaces the sources of the manifest.
    if choices.source is not None:
        found = [_of_source(choices)]
    else:
        manifest = read_manifest(choices.manifest or MANIFEST)
        # A category that is named twice runs once.
        names = list(dict.fromkeys(choices.categories)) or list(manifest.categories)
        found = [resolve(manifest, name) for name in names]
    if choices.all_normal and not any(settings.kind == "folder" for settings in found):
        raise UserError(
            "--all-normal is for sources of kind folder; the other layouts say which images are "
            "good: leave it out"
        )
    if choices.reviews is not None and len(found) > 1:
        raise UserError(
            f"--reviews is about versions of one category, got {len(found)}: name it with "
            "--category, or name the file of each in the manifest"
        )
    found = [_overridden(settings, choices) for settings in found]
    if choices.publishes and choices.source is not None and not choices.categories:
        _require_own_name(found[0])
    return found


def _require_own_name(settings: CategorySettings) -> None:
    """UserError when the store has the category named after this folder from another folder.

    `good` is a frequent name; the version would count as a later one of another product.
    """
    # Planning imports the models, which few commands need.
    from pipeline.generation.plan import folder_of_newest

    before = folder_of_newest(settings.store, settings.name)
    # A folder that is gone was moved here.
    if before is None or not before.exists() or not settings.root.exists():
        return
    if not before.samefile(settings.root):
        raise UserError(
            f"the category {settings.name} of {settings.store} was made from {before}, and this "
            f"is {settings.root}: name the new one with --category NAME, or say --category "
            f"{settings.name} if it is the same product"
        )


def _of_source(choices: Choices) -> CategorySettings:
    """Settings for one folder; a manifest, when also given, supplies all but the source."""
    kind, colon, path = (choices.source or "").partition(":")
    if not (kind and colon and path):
        raise UserError(
            f"expected --source KIND:PATH, such as mvtec_ad:/data/bottle; got {choices.source!r}"
        )
    if len(choices.categories) > 1:
        raise UserError(
            f"expected one --category with --source, got {len(choices.categories)}; give one, or "
            "none to use the folder's name"
        )
    # A manifest with one category, as if the user had written it.
    manifest = manifest_for_source(kind, Path(path), *choices.categories)
    (name, entry) = next(iter(manifest.categories.items()))
    if choices.manifest is not None:
        base = read_manifest(choices.manifest)
        # Settings of the manifest, but only this one category.
        only: dict[str, CategoryEntry] = {name: entry}
        manifest = base.model_copy(update={"categories": only, "sources": {}}).placed(base.folder)
    return resolve(manifest, name)


def _overridden(settings: CategorySettings, choices: Choices) -> CategorySettings:
    """The settings with the arguments in place of the manifest's values."""
    settings = override(
        settings,
        store=choices.store,
        seed=choices.seed,
        preset=choices.preset,
        per_image=choices.per_image,
        follow_links=choices.follow_links,
        reviews=choices.reviews,
        other_products=choices.other_products,
        all_normal=choices.all_normal,
    )
    # `override` knows the settings of a manifest, not image size and models.
    changed: dict[str, Any] = {}
    if choices.image_size is not None:
        changed["image_size"] = _size(choices.image_size)
    # Validated again as a whole: a backend may not fit the other model settings.
    models = settings.models.model_dump()
    if choices.device is not None:
        models["device"] = choices.device
    if choices.inpaint is not None:
        models["inpaint"]["backend"] = choices.inpaint
    try:
        changed["models"] = ModelSettings.model_validate(models)
    except ValidationError as error:
        raise UserError(first_error(error)) from None
    return settings.model_copy(update=changed)


def _size(text: str) -> tuple[int, int]:
    """`256` or `HEIGHTxWIDTH`."""
    try:
        # One number is a square.
        sides = [int(side) for side in text.lower().split("x")]
        return as_size(sides[0] if len(sides) == 1 else sides)
    except ValueError as error:
        raise UserError(
            f"expected --image-size PX or HEIGHTxWIDTH, got {text!r}: {error}"
        ) from None
