"""Models of the manifest as written, and of one category as resolved; nothing is read here.

The descriptions of the fields are the manifest's documentation: docs/manifest.md and
data_manifest.schema.json are generated from them.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from pipeline.config.names import Name
from pipeline.edits.settings import EditSettings
from pipeline.gate.settings import GateSettings, uses_patches
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.settings import ImageSize, Seed, Settings
from pipeline.sources.layouts.registry import LAYOUTS
from pipeline.sources.options import (
    ABNORMAL_DIR,
    ALL_NORMAL,
    MASK_DIR,
    NO_OPTIONS,
    NORMAL_DIR,
    NORMAL_TEST_DIR,
    Folders,
    SourceOptions,
)

# The kind of a source that is rendered on first use and read as `mvtec_loco` from then on.
SCENES = "scenes"

# Type checkers cannot read a Literal that is built from a registry. Pydantic needs it for the
# choices in the schema and in error messages.
if TYPE_CHECKING:
    SourceKind = str
else:
    SourceKind = Literal[(*LAYOUTS, SCENES)]
SceneProduct = Literal["tray", "bottle", "pins", "bag"]


class SplitSettings(Settings):
    """How normal images are split where the source has no validation split of its own."""

    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.1, description="share of the normals held out for validation"
    )
    seed: Seed | None = Field(
        default=None, description="random seed of the choice; null = that of the manifest"
    )


class OutputSettings(Settings):
    """How a version is stored; changes bytes, never content or digest."""

    profile: Literal["default", "portable", "fast"] = Field(
        default="default",
        description="default = small (LZ4); portable = gzip, readable without plugins; fast = "
        "uncompressed: about ten times larger, reads at memory speed",
    )
    shard_images: int = Field(
        default=64, ge=1, le=100_000, description="source images per HDF5 shard"
    )
    keep_rejects: bool = Field(
        default=True, description="store some rejected samples and show them in the gallery"
    )
    gallery: bool = Field(default=True, description="write gallery/index.html")
    audit: bool = Field(
        default=True,
        description="measure for every version whether traces of editing give samples away, and "
        "how easy each kind is to detect (docs/audit.md)",
    )


class LicencePolicy(Settings):
    """Which licences are accepted."""

    allow_noncommercial: bool = Field(
        default=True,
        description="false = reject data and weights whose licence forbids commercial use",
    )


class SceneCounts(Settings):
    """Number and size of the images rendered per product."""

    train: int = Field(default=8, ge=2, le=100_000, description="good images for training")
    validation: int = Field(default=2, ge=1, le=100_000, description="good images for validation")
    test_good: int = Field(default=4, ge=0, le=100_000, description="good test images")
    per_defect: int = Field(
        default=1, ge=0, le=10_000, description="test images per defect type (9 to 12 types)"
    )
    size: int = Field(
        default=512, ge=128, le=2048, description="px, height and width of a rendered image"
    )
    seed: Seed = Field(default=0, description="random seed of the scenes")


class SourceSettings(Settings):
    """A folder of images in a known layout, used by one or more categories."""

    kind: SourceKind = Field(description="the folder's layout; see the table of layouts")
    path: str = Field(min_length=1, description="the folder; relative to the manifest")
    licence: str | None = Field(default=None, description="null = the known licence of the kind")
    normal_dir: Folders | None = NORMAL_DIR
    normal_test_dir: Folders | None = NORMAL_TEST_DIR
    abnormal_dir: Folders | None = ABNORMAL_DIR
    mask_dir: Folders | None = MASK_DIR
    all_normal: bool | None = ALL_NORMAL
    follow_links: str | None = Field(
        default=None,
        min_length=1,
        description="folder that links inside the source may lead into, such as DVC's cache; "
        "relative to the manifest; null = links stay inside the source",
    )
    scenes: SceneCounts | None = Field(
        default=None, description="only for kind scenes: numbers of images"
    )

    # A key that has no effect is an error here like everywhere in the manifest.
    @model_validator(mode="after")
    def _scenes_only_for_scenes(self) -> "SourceSettings":
        if self.scenes is not None and self.kind != SCENES:
            raise ValueError(
                f"`scenes` needs kind scenes, got kind {self.kind}; remove one of them"
            )
        return self


class CategoryEntry(Settings):
    """One product or view, and the settings in which it differs from the top level."""

    # Where the images are, and what is known about them.
    source: str = Field(description="a name under `sources`, or a kind with `path`")
    path: str | None = Field(
        default=None,
        min_length=1,
        description="folder below the source; null = the category's name (retinal_oct, ok_ng and "
        "folder: the source itself); with a kind as source: the folder, relative to the manifest",
    )
    normal_dir: Folders | None = NORMAL_DIR
    normal_test_dir: Folders | None = NORMAL_TEST_DIR
    abnormal_dir: Folders | None = ABNORMAL_DIR
    mask_dir: Folders | None = MASK_DIR
    all_normal: bool | None = ALL_NORMAL
    follow_links: str | None = Field(
        default=None, min_length=1, description="null = that of the source"
    )
    product: SceneProduct | None = Field(
        default=None,
        description="only for kind scenes: what is rendered; null = the category's name",
    )
    licence: str | None = Field(default=None, description="null = that of the source")
    seed: Seed | None = Field(default=None, description="null = that of the manifest")
    image_size: ImageSize | None = Field(default=None, description="null = that of the manifest")
    # Sections of the manifest of which a category may override single keys.
    splits: SplitSettings | None = Field(default=None, description="keys of `splits` that differ")
    models: ModelSettings | None = Field(default=None, description="keys of `models` that differ")
    proposals: ProposalSettings | None = Field(
        default=None, description="keys of `proposals` that differ"
    )
    edits: EditSettings | None = Field(default=None, description="keys of `edits` that differ")
    gate: GateSettings | None = Field(default=None, description="keys of `gate` that differ")
    rules: str | None = Field(
        default=None,
        min_length=1,
        description="rule book (`anomalysmith rules draft`) that every sample is checked against; "
        "relative to the manifest; null = none",
    )
    other_products: tuple[str, ...] | None = Field(
        default=None,
        description="folders of good images of other products, relative to the manifest, for "
        "`wrong_type` where the category has one type of part only; null = the manifest's other "
        "categories under the same licence; [] = none",
    )
    reviews: str | None = Field(
        default=None,
        min_length=1,
        description="file of decisions about versions of this category (docs/review.md): edits "
        "that were rejected are replaced by others; relative to the manifest; null = none",
    )


class Manifest(Settings):
    """The whole manifest file."""

    # Rejects manifests of a future format instead of misreading them.
    version: Literal[1] = Field(default=1, description="version of the manifest's format")
    seed: Seed = Field(default=0, description="random seed")
    store: str = Field(
        default="./out/store", min_length=1, description="folder of the dataset versions"
    )
    image_size: ImageSize = Field(
        default=(256, 256),
        description="px, size of stored images: one number (square) or [height, width]",
    )
    splits: SplitSettings = Field(default=SplitSettings(), description="training and validation")
    models: ModelSettings = Field(default=ModelSettings(), description="models and devices")
    proposals: ProposalSettings = Field(default=ProposalSettings(), description="object proposals")
    edits: EditSettings = Field(default=EditSettings(), description="kinds and numbers of edits")
    gate: GateSettings = Field(default=GateSettings(), description="limits of the quality gate")
    licence: LicencePolicy = Field(default=LicencePolicy(), description="accepted licences")
    output: OutputSettings = Field(default=OutputSettings(), description="storage of a version")
    sources: dict[Name, SourceSettings] = Field(default={}, description="name -> folder and layout")
    categories: dict[Name, CategoryEntry] = Field(
        min_length=1, description="name -> source and settings that differ"
    )
    # Not a key of the file: set by `placed` after reading.
    _folder: Path = PrivateAttr(Path())

    @field_validator("store")
    @classmethod
    def _is_no_variable(cls, store: str) -> str:
        # Folders that are read would be missed; this one would be created, called `~` or `$HOME`.
        if re.match(r"~(/|$)|\$[{A-Za-z_]", store):
            raise ValueError("variables and ~ are not expanded; write the path out")
        return store

    @property
    def folder(self) -> Path:
        """The folder of the manifest, which relative paths are relative to."""
        return self._folder

    def placed(self, folder: Path) -> "Manifest":
        """The same manifest in another folder."""
        # Models are frozen; private attributes are not.
        copy = self.model_copy()
        copy._folder = folder
        return copy


class OtherProduct(Settings):
    """A folder of images whose products may be pasted into those of another category."""

    name: str
    kind: str
    root: Path
    follow_links: Path | None = None
    options: SourceOptions = NO_OPTIONS


class CategorySettings(Settings):
    """The resolved settings of one category, as a run uses them.

    `kind` is never `scenes`: rendered sources are read as `mvtec_loco`, and `scenes` then states
    what to render into `root` if it is empty.
    """

    # Which images, from where, and into which store.
    name: str
    kind: str
    root: Path
    licence: str
    store: Path
    seed: int
    image_size: tuple[int, int]
    # The sections of the manifest, with the category's overrides applied.
    splits: SplitSettings
    models: ModelSettings
    proposals: ProposalSettings
    edits: EditSettings
    gate: GateSettings
    output: OutputSettings
    policy: LicencePolicy
    # What only some categories have: rendered scenes, a rule book.
    scenes: SceneCounts | None = None
    product: str | None = None
    rules: Path | None = None
    # Enter the plan by the digests of the images that are taken from them.
    other_products: tuple[OtherProduct, ...] = ()
    # Enters the plan by the edits that were rejected.
    reviews: Path | None = None
    # Decides which files are found, and so enters the plan by their digests.
    follow_links: Path | None = None
    # Likewise, which folders hold what.
    options: SourceOptions = NO_OPTIONS

    @property
    def uses_patches(self) -> bool:
        """Whether the gate's network checks inpainted regions (`GateSettings.patches`)."""
        return uses_patches(self.gate.patches, self.edits.preset)

    @property
    def split_seed(self) -> int:
        """The seed of the choice of validation images."""
        return self.seed if self.splits.seed is None else self.splits.seed

    def digest_content(self) -> dict[str, Any]:
        """The settings that decide the dataset's content, as JSON: part of its plan's digest.

        Paths, store, device and file format are left out, so moving folders or naming the same
        weights by a path changes nothing. The weights themselves enter by their own digests.
        """
        return {
            "category": self.name,
            "kind": self.kind,
            # The key of every section is that of the manifest.
            "seed": self.seed,
            "image_size": list(self.image_size),
            "splits": {
                "validation_fraction": self.splits.validation_fraction,
                "seed": self.split_seed,
            },
            "models": self.models.content(),
            "proposals": self.proposals.model_dump(mode="json"),
            "edits": self.edits.model_dump(mode="json"),
            "gate": self.gate.model_dump(mode="json"),
            **self._rules_content(),
        }

    def _rules_content(self) -> dict[str, str]:
        """The digest of the rule book; no key at all without one, as in older versions."""
        if self.rules is None:
            return {}
        # Imported here: rule books need packages that most runs do not.
        from pipeline.rulebook.book import digest_of_file

        return {"rules": digest_of_file(self.rules)}
