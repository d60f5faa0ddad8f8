"""Reading `data_manifest.yaml`: check it, resolve a category's settings, apply overrides.

A manifest names sources (folders in a known layout) and categories (one product each). Top-level
settings apply to every category; a category may override them key by key. `resolve` returns the
`CategorySettings` that a run uses; `manifest_for_source` builds a manifest without a file. Paths
are relative to the manifest's folder; environment variables and `~` are not expanded, and a byte
that is no UTF-8 is written as `\\xb2`.

    python -m pipeline.config.docs --schema     write data_manifest.schema.json and docs/manifest.md
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from pipeline.config.names import category_name, composed, twice
from pipeline.config.schema import (
    SCENES,
    CategoryEntry,
    CategorySettings,
    Manifest,
    OtherProduct,
    SceneCounts,
    SceneProduct,
    SourceSettings,
)
from pipeline.edits.settings import EditSettings
from pipeline.errors import ManifestError
from pipeline.models.settings import MODEL_STAGES, ModelSettings
from pipeline.settings import Settings
from pipeline.sources.layouts.registry import LAYOUTS
from pipeline.sources.layouts.split_tree import subfolder
from pipeline.sources.licences import RENDERED_LICENCE
from pipeline.sources.options import SourceOptions
from pipeline.utils.names import path_of, text_of
from pipeline.utils.yaml_lines import did_you_mean, explain, load_yaml

Model = TypeVar("Model", bound=Settings)
# A folder of other products holds what the user says, whatever its files are called.
ALL_GOOD = SourceOptions(all_normal=True)


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest; ManifestError names file, line and key of every user error."""
    path = Path(path)
    document = load_yaml(path)
    # Afterwards the names are composed, and of two that become one the second would win.
    for section in ("sources", "categories"):
        named = document.content.get(section)
        same = twice(map(str, named)) if isinstance(named, Mapping) else None
        if same:
            message = f"is called like {same[0]} but for case or Unicode form; rename one of them"
            raise ManifestError(document.at((section, same[1]), message))
    # Validated as JSON: strict mode then still accepts lists for tuples, but no "3" for 3.
    try:
        manifest = Manifest.model_validate_json(document.as_json(), strict=True)
    except ValidationError as error:
        raise ManifestError(explain(error, document, Manifest)) from None
    manifest = manifest.placed(path.resolve().parent)
    # Some errors show only when a category is resolved. They are reported before anything runs.
    for name in manifest.categories:
        try:
            resolve(manifest, name)
        except _EntryError as error:
            raise ManifestError(document.at(error.keys, error.message)) from None
    return manifest


def manifest_for_source(
    kind: str, path: Path, category: str | None = None, **overrides: Any
) -> Manifest:
    """The manifest for the folder of one category, without a file.

    `overrides` are top-level keys (`edits={"per_image": 2}`). The category is named after the
    folder unless a name is given. Relative paths are relative to the working directory.
    """
    # Rendered scenes have counts and products, so they need a manifest.
    if kind not in LAYOUTS:
        hint = did_you_mean(kind, list(LAYOUTS))
        raise ManifestError(
            f"unknown source kind {kind!r}{hint}; the kinds are {', '.join(LAYOUTS)}"
        )
    folder = Path(path).resolve()
    # A dataset name must be a plain folder name in the store, whatever the folder is called.
    name = category or category_name(text_of(folder.name))
    # The same checks as for a file, so it goes through JSON too.
    entry = {"source": kind, "path": text_of(folder)}
    content = {"categories": {text_of(name): entry}, **overrides}
    try:
        manifest = Manifest.model_validate_json(json.dumps(content, default=_to_json), strict=True)
    except ValidationError as error:
        raise ManifestError(explain(error, None, Manifest)) from None
    return manifest.placed(Path.cwd())


def resolve(manifest: Manifest, category: str) -> CategorySettings:
    """All settings of one category, with its overrides applied and paths absolute.

    Raises ManifestError for combinations that make no sense, such as prompts without a filler.
    """
    entry = manifest.categories.get(composed(category))
    if entry is None:
        known = ", ".join(manifest.categories)
        hint = did_you_mean(category, list(manifest.categories))
        raise ManifestError(f"unknown category {category!r}{hint}; the manifest has {known}")
    category = composed(category)
    here = ("categories", category)
    # Where the images are.
    source, root = _located(manifest, category, entry)
    # Rendered scenes: which product is drawn.
    rendered = source.kind == SCENES
    if entry.product and not rendered:
        raise _EntryError((*here, "product"), "needs a source of kind scenes; remove it")
    product = entry.product or (category if rendered else None)
    if rendered and product not in get_args(SceneProduct):
        known = ", ".join(get_args(SceneProduct))
        raise _EntryError(here, f"no product is called {product!r}; set product to one of {known}")
    # Checked after the overrides: each value may be valid by itself.
    proposals = _overlaid(manifest.proposals, entry.proposals)
    if proposals.min_area >= proposals.max_area:
        raise _EntryError(
            (*here, "proposals"),
            f"min_area {proposals.min_area} must be below max_area {proposals.max_area}",
        )
    # Which edits are made, and with what.
    edits, models = _overlaid(manifest.edits, entry.edits), _overlaid(manifest.models, entry.models)
    # Only a diffusion model follows prompts; inpainting models would ignore them.
    if (edits.prompts or edits.ground_prompts) and models.fill.backend == "none":
        raise _EntryError(
            (*here, "edits"),
            "prompts need a model that follows them; set models.fill.backend to diffusers, or "
            "remove the prompts",
        )
    if not edits.per_image + edits.controls_per_image:
        raise _EntryError(
            (*here, "edits"),
            "per_image and controls_per_image are both 0, so nothing would be generated; raise one",
        )
    # A missing rule book would show only when the first sample is judged.
    rules = None if entry.rules is None else _absolute(manifest.folder, entry.rules)
    if rules is not None and not rules.is_file():
        raise _EntryError(
            (*here, "rules"),
            f"there is no rule book {entry.rules}; write one with `anomalysmith rules draft`",
        )
    reviews = None if entry.reviews is None else _absolute(manifest.folder, entry.reviews)
    if reviews is not None and not reviews.is_file():
        raise _EntryError((*here, "reviews"), f"there is no file of decisions {entry.reviews}")
    links = _links(manifest, entry, source)
    licence = _licence(entry, source)
    # The policy applies to data here; weights are checked when they are looked up.
    if not manifest.licence.allow_noncommercial and _is_noncommercial(licence):
        raise _EntryError(
            here,
            f"its licence is {licence}, but licence.allow_noncommercial is false; "
            "use another source or allow it",
        )
    return CategorySettings(
        name=category,
        kind="mvtec_loco" if rendered else source.kind,
        root=root,
        licence=licence,
        store=_absolute(manifest.folder, manifest.store),
        seed=manifest.seed if entry.seed is None else entry.seed,
        image_size=entry.image_size or manifest.image_size,
        splits=_overlaid(manifest.splits, entry.splits),
        models=_with_absolute_weights(models, manifest.folder),
        proposals=proposals,
        edits=edits,
        gate=_overlaid(manifest.gate, entry.gate),
        output=manifest.output,
        policy=manifest.licence,
        scenes=(source.scenes or SceneCounts()) if rendered else None,
        product=product,
        rules=rules,
        other_products=_other_products(manifest, category, licence),
        reviews=reviews,
        follow_links=links,
        options=_options(category, entry, source),
    )


def _links(manifest: Manifest, entry: CategoryEntry, source: SourceSettings) -> Path | None:
    links = entry.follow_links or source.follow_links
    return None if links is None else _absolute(manifest.folder, path_of(links))


def _licence(entry: CategoryEntry, source: SourceSettings) -> str:
    """The most specific statement wins; what the layout is known for comes last."""
    known = RENDERED_LICENCE if source.kind == SCENES else LAYOUTS[source.kind].licence
    return entry.licence or source.licence or known


def _other_products(manifest: Manifest, category: str, licence: str) -> tuple[OtherProduct, ...]:
    """Where images of other products are: the folders that the category names, else the other
    categories under its licence, since a pasted product brings its own along.

    Rendered scenes donate nothing: they may not be drawn yet.
    """
    named = manifest.categories[category].other_products
    if named is not None:
        folders = [_absolute(manifest.folder, path_of(path)) for path in named]
        return tuple(
            OtherProduct(name=text_of(one.name), kind="folder", root=one, options=ALL_GOOD)
            for one in folders
        )
    found = []
    for name, entry in manifest.categories.items():
        if name == category:
            continue
        source, root = _located(manifest, name, entry)
        if source.kind != SCENES and _licence(entry, source) == licence:
            found.append(OtherProduct(
                name=name, kind=source.kind, root=root,
                follow_links=_links(manifest, entry, source),
                options=_options(name, entry, source),
            ))  # fmt: skip
    return tuple(found)


def override(
    settings: CategorySettings,
    *,
    store: Path | None = None,
    seed: int | None = None,
    preset: str | None = None,
    per_image: int | None = None,
    follow_links: Path | None = None,
    reviews: Path | None = None,
    other_products: Path | None = None,
    all_normal: bool = False,
) -> CategorySettings:
    """The settings with options of the command line in place of the manifest's values.

    A preset from the command line replaces the manifest's list of kinds.
    """
    edits: dict[str, Any] = {}
    if preset is not None:
        edits |= {"preset": preset, "kinds": None}
    if per_image is not None:
        edits["per_image"] = per_image
    # None means that the option was not given.
    top = {
        "store": store and Path(os.path.abspath(store)),
        "seed": seed,
        "follow_links": follow_links and Path(os.path.abspath(follow_links)),
        "reviews": reviews and Path(os.path.abspath(reviews)),
    }
    changed: dict[str, Any] = {key: value for key, value in top.items() if value is not None}
    if other_products is not None:
        folder = Path(os.path.abspath(other_products))
        one = OtherProduct(name=text_of(folder.name), kind="folder", root=folder, options=ALL_GOOD)
        changed["other_products"] = (one,)
    # Other layouts say which images are good.
    if all_normal and settings.kind == "folder":
        changed["options"] = settings.options.model_copy(update={"all_normal": True})
    if edits:
        # `model_copy` does not validate, so the edits are built anew.
        try:
            changed["edits"] = EditSettings.model_validate(settings.edits.model_dump() | edits)
        except ValidationError as error:
            raise ManifestError(explain(error, None, EditSettings)) from None
    if seed is not None and not 0 <= seed < 2**63:
        raise ManifestError(f"seed: must be from 0 to 2**63 - 1, got {seed}")
    return settings.model_copy(update=changed)


def _options(category: str, entry: CategoryEntry, source: SourceSettings) -> SourceOptions:
    """The options of a category's source: its own, else those of the source."""
    stated = {}
    for key in SourceOptions.model_fields:
        own = getattr(entry, key)
        value = getattr(source, key) if own is None else own
        # A key that has no effect is an error here like everywhere in the manifest.
        kind = "folder" if key == "all_normal" else "ok_ng"
        if value is not None and source.kind != kind:
            raise _EntryError(
                ("categories", category, key) if own is not None else ("categories", category),
                f"{key} needs a source of kind {kind}, got {source.kind}; remove it",
            )
        stated[key] = value
    return SourceOptions(**stated)


class _EntryError(ManifestError):
    """A user error at a key of the manifest; `read_manifest` adds file and line."""

    def __init__(self, keys: tuple[str | int, ...], message: str) -> None:
        super().__init__(f"{'.'.join(map(str, keys))}: {message}")
        self.keys, self.message = keys, message


def _located(
    manifest: Manifest, category: str, entry: CategoryEntry
) -> tuple[SourceSettings, Path]:
    """The category's source and its folder, which cannot be outside the source."""
    keys = ("categories", category)
    source = manifest.sources.get(entry.source)
    # A kind in place of a named source: `path` is then the category's own folder.
    if source is None:
        if entry.source not in LAYOUTS:
            known = ", ".join([*manifest.sources, *LAYOUTS])
            hint = did_you_mean(entry.source, [*manifest.sources, *LAYOUTS])
            raise _EntryError(
                (*keys, "source"), f"unknown source {entry.source!r}{hint}; known: {known}"
            )
        if entry.path is None:
            raise _EntryError(keys, f"source {entry.source} is a kind, so `path` is needed; add it")
        return (
            SourceSettings.model_validate({"kind": entry.source, "path": entry.path}),
            _absolute(manifest.folder, path_of(entry.path)),
        )
    # A named source: the category is a folder below it.
    top = _absolute(manifest.folder, path_of(source.path))
    layout = LAYOUTS.get(source.kind)
    # Sources with one category have its images directly inside; others have a folder per category.
    if entry.path is None and not (layout and layout.one_category):
        # Named after the category, in any case and Unicode form.
        below = subfolder(top, category).relative_to(top)
    else:
        below = path_of(entry.path or ".")
    if below.is_absolute() or ".." in below.parts:
        raise _EntryError(
            (*keys, "path"),
            f"must stay below the source's folder {source.path}, got {str(below)!r}",
        )
    # A link must not lead elsewhere either: the licence belongs to the source's folder.
    if not (top / below).resolve().is_relative_to(top.resolve()):
        raise _EntryError(
            (*keys, "path"),
            f"{below} is a link that leads out of the source's folder {source.path}; name the "
            "folder itself, with the kind as source",
        )
    return source, top / below


def _overlaid(base: Model, changes: Model | None) -> Model:
    """The top-level settings, overridden by the keys that a category states explicitly.

    Defaults of the category's model are no statement, so `model_fields_set` decides.
    """
    if changes is None:
        return base
    stated = {}
    for key in changes.model_fields_set:
        value, below = getattr(changes, key), getattr(base, key)
        stated[key] = _overlaid(below, value) if isinstance(value, Settings) else value
    return base.model_copy(update=stated)


def _with_absolute_weights(models: ModelSettings, base: Path) -> ModelSettings:
    """The model settings with paths of weights relative to the manifest made absolute."""
    # Only stages whose weights are named by a path; the others are looked up by name.
    stages = {}
    for stage in MODEL_STAGES:
        backend = getattr(models, stage)
        if backend.weights is not None:
            stages[stage] = backend.model_copy(
                update={"weights": str(_absolute(base, backend.weights))}
            )
    return models.model_copy(update=stages)


def _absolute(base: Path, path: str | Path) -> Path:
    """A path relative to the manifest's folder as absolute; `..` is removed, links stay."""
    return Path(os.path.abspath(base / path))


def _is_noncommercial(licence: str) -> bool:
    """Whether a licence text forbids commercial use, by its wording (`CC BY-NC-SA 4.0`)."""
    return bool(re.search(r"\bNC\b|non-?commercial", licence, re.I))


def _to_json(value: Any) -> Any:
    """Overrides may contain settings models and paths, which `json` cannot encode."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    return str(value)
