"""The manifest as it is written, and one category as it is resolved; only shapes, no reading.

The descriptions of the fields are the manifest's documentation: docs/manifest.md and
data_manifest.schema.json are generated from them.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StringConstraints, model_validator

from pipeline.edits.settings import EditSettings
from pipeline.gate.settings import GateSettings, asks_patches
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.settings import ImageSize, Seed, Settings
from pipeline.sources.layouts.registry import LAYOUTS

SCENES = "scenes"
"""The kind of a source that is rendered on first use and read as `mvtec_loco` from then on."""

if TYPE_CHECKING:
    SourceKind = str
else:  # for pydantic: the choices of the manifest, of its schema and of its error messages
    SourceKind = Literal[(*LAYOUTS, SCENES)]
SceneProduct = Literal["tray", "bottle", "pins", "bag"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class SplitSettings(Settings):
    """How normals are parted where the source has no validation split of its own."""

    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.1, description="share of the normals held out for validation"
    )
    seed: Seed | None = Field(default=None, description="which ones; null = the manifest's seed")


class OutputSettings(Settings):
    """How a version is stored; changes bytes, never content."""

    profile: Literal["default", "portable", "fast"] = Field(
        default="default",
        description="default = small (lz4); portable = gzip only, reads without plugins; fast = "
        "nothing packed: some ten times larger, reads at the speed of memory",
    )
    shard_images: int = Field(
        default=64, ge=1, le=100_000, description="source images per HDF5 shard"
    )
    keep_rejects: bool = Field(default=True, description="show refused samples in the gallery")
    gallery: bool = Field(default=True, description="write gallery/index.html")
    audit: bool = Field(
        default=True,
        description="ask of every version whether traces of editing give its samples away, and how "
        "visible each kind is (docs/audit.md)",
    )


class LicencePolicy(Settings):
    """What may be used."""

    allow_noncommercial: bool = Field(
        default=True,
        description="false = refuse data and weights whose licence forbids commercial use",
    )


class SceneCounts(Settings):
    """How many scenes are rendered per product."""

    train: int = Field(default=8, ge=2, le=100_000, description="good images for training")
    validation: int = Field(default=2, ge=1, le=100_000, description="good images for validation")
    test_good: int = Field(default=4, ge=0, le=100_000, description="good test images")
    per_defect: int = Field(
        default=1, ge=0, le=10_000, description="test images per defect type (9 to 12 types)"
    )
    size: int = Field(
        default=512, ge=128, le=2048, description="px, height and width of a rendered image"
    )
    seed: Seed = Field(default=0, description="another seed gives other scenes")


class SourceSettings(Settings):
    """A folder of images in a known layout, used by one or more categories."""

    kind: SourceKind = Field(description="the folder's layout; see the table of layouts")
    path: str = Field(min_length=1, description="the folder; relative to the manifest")
    licence: str | None = Field(default=None, description="null = the licence known for the kind")
    scenes: SceneCounts | None = Field(
        default=None, description="only for kind scenes: how many images"
    )

    @model_validator(mode="after")
    def _scenes_only_for_scenes(self) -> "SourceSettings":
        if self.scenes is not None and self.kind != SCENES:
            raise ValueError(f"`scenes` goes with kind scenes only, not with {self.kind}")
        return self


class CategoryEntry(Settings):
    """One product or view, and whatever differs from the top-level settings."""

    source: str = Field(description="a name under `sources`, or a kind together with `path`")
    path: str | None = Field(
        default=None,
        min_length=1,
        description="folder below the source; null = the category's name (retinal_oct and folder: "
        "the source itself); with a kind as source: the folder, relative to the manifest",
    )
    product: SceneProduct | None = Field(
        default=None, description="only for kind scenes: what is drawn; null = the category's name"
    )
    licence: str | None = Field(default=None, description="null = the source's")
    seed: Seed | None = Field(default=None, description="null = the manifest's")
    image_size: ImageSize | None = Field(default=None, description="null = the manifest's")
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
        description="rule book (`anomalysmith rules draft`) that every sample is held against; "
        "relative to the manifest; null = none",
    )


class Manifest(Settings):
    """The whole file."""

    version: Literal[1] = Field(default=1, description="version of the manifest's format")
    seed: Seed = Field(default=0, description="root of every random choice")
    store: str = Field(
        default="./out/store", min_length=1, description="where dataset versions are put"
    )
    image_size: ImageSize = Field(
        default=(256, 256), description="px, stored size: one number (square) or [height, width]"
    )
    splits: SplitSettings = Field(default=SplitSettings(), description="training and validation")
    models: ModelSettings = Field(default=ModelSettings(), description="the three models")
    proposals: ProposalSettings = Field(default=ProposalSettings(), description="finding objects")
    edits: EditSettings = Field(default=EditSettings(), description="making anomalies")
    gate: GateSettings = Field(default=GateSettings(), description="refusing bad ones")
    licence: LicencePolicy = Field(default=LicencePolicy(), description="what may be used")
    output: OutputSettings = Field(default=OutputSettings(), description="how it is stored")
    sources: dict[Name, SourceSettings] = Field(default={}, description="name -> folder and layout")
    categories: dict[Name, CategoryEntry] = Field(
        min_length=1, description="name -> source and what differs"
    )
    _folder: Path = PrivateAttr(Path())

    @property
    def folder(self) -> Path:
        """Where the manifest lies: what relative paths are relative to."""
        return self._folder

    def placed(self, folder: Path) -> "Manifest":
        """The same manifest, lying in another folder."""
        copy = self.model_copy()
        copy._folder = folder
        return copy


class CategorySettings(Settings):
    """All that a run of one category needs, with nothing left to look up.

    `kind` is never `scenes`: rendered sources are read as `mvtec_loco`, and `scenes` then says what
    to render into `root` when it is empty.
    """

    name: str
    kind: str
    root: Path
    licence: str
    store: Path
    seed: int
    image_size: tuple[int, int]
    splits: SplitSettings
    models: ModelSettings
    proposals: ProposalSettings
    edits: EditSettings
    gate: GateSettings
    output: OutputSettings
    policy: LicencePolicy
    scenes: SceneCounts | None = None
    product: str | None = None
    rules: Path | None = None

    @property
    def asks_patches(self) -> bool:
        """Whether the gate's network looks at painted ground (`GateSettings.patches`)."""
        return asks_patches(self.gate.patches, self.edits.preset)

    @property
    def split_seed(self) -> int:
        """The seed that holds out validation images."""
        return self.seed if self.splits.seed is None else self.splits.seed

    def digest_content(self) -> dict[str, Any]:
        """What decides the dataset's content: no path, no store, no device, no file format.

        Moving folders, or naming the same weights by a path, leaves the dataset digest as it is;
        the weights themselves enter by their own digests.
        """
        return {
            "category": self.name,
            "kind": self.kind,
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
        """What the rule book says, as a digest; no key at all without one."""
        if self.rules is None:
            return {}
        from pipeline.rulebook.book import digest_of_file

        return {"rules": digest_of_file(self.rules)}
