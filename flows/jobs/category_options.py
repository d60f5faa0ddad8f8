"""From what a command line or a deployment asks for to the settings of each category.

Manifest first, then whatever was said by hand. The command line and the Prefect flow share this,
so the same words mean the same run.
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

MANIFEST = Path("data_manifest.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Everything that may be said in place of the manifest; None leaves the manifest's word."""

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


def settings_of(choices: Choices) -> list[CategorySettings]:
    """The settings of every category that was asked for, in order; all of them when none was."""
    if choices.source is not None:
        found = [_of_source(choices)]
    else:
        manifest = read_manifest(choices.manifest or MANIFEST)
        names = list(dict.fromkeys(choices.categories)) or list(manifest.categories)
        found = [resolve(manifest, name) for name in names]
    return [_overridden(settings, choices) for settings in found]


def _of_source(choices: Choices) -> CategorySettings:
    """One folder's settings; a manifest, when named as well, gives everything but the source."""
    kind, colon, path = (choices.source or "").partition(":")
    if not (kind and colon and path):
        raise UserError(
            f"--source is KIND:PATH, such as mvtec_ad:/data/bottle; got {choices.source!r}"
        )
    if len(choices.categories) > 1:
        raise UserError(
            f"--source is one category, but {len(choices.categories)} names were given; "
            "name one, or none to take the folder's name"
        )
    manifest = manifest_for_source(kind, Path(path), *choices.categories)
    (name, entry) = next(iter(manifest.categories.items()))
    if choices.manifest is not None:
        base = read_manifest(choices.manifest)
        only: dict[str, CategoryEntry] = {name: entry}
        manifest = base.model_copy(update={"categories": only, "sources": {}}).placed(base.folder)
    return resolve(manifest, name)


def _overridden(settings: CategorySettings, choices: Choices) -> CategorySettings:
    settings = override(
        settings,
        store=choices.store,
        seed=choices.seed,
        preset=choices.preset,
        per_image=choices.per_image,
    )
    changed: dict[str, Any] = {}
    if choices.image_size is not None:
        changed["image_size"] = _size(choices.image_size)
    models = settings.models.model_dump()
    if choices.device is not None:
        models["device"] = choices.device
    if choices.inpaint is not None:
        models["inpaint"]["backend"] = choices.inpaint
    try:
        changed["models"] = ModelSettings.model_validate(models)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise UserError(f"{where}: {fault['msg']}, got {fault['input']!r}") from None
    return settings.model_copy(update=changed)


def _size(text: str) -> tuple[int, int]:
    """`256` or `HEIGHTxWIDTH`."""
    try:
        sides = [int(side) for side in text.lower().split("x")]
        return as_size(sides[0] if len(sides) == 1 else sides)
    except ValueError as error:
        raise UserError(f"--image-size is PX or HEIGHTxWIDTH, got {text!r}: {error}") from None
