"""Images of other categories whose products may be pasted into those of this one.

A few images of each are enough. The first ones by name are taken, so that a source that grows
changes nothing here, and the same image never donates to training and to validation.
"""

from collections.abc import Collection

from pipeline.config.schema import CategorySettings, OtherProduct
from pipeline.errors import AnomalysmithError, ImageError
from pipeline.generation.cache_keys import PlannedImage
from pipeline.imaging.decode import file_digest
from pipeline.records import GOOD, SourceEntry, Split
from pipeline.sources.listing import read_source

# Images of each other category, the first by name, and of all of them together.
PER_CATEGORY, IN_ALL = 8, 32
# Of that many images of another category, one donates to validation and the others to training.
HELD_OUT = 4
ALONE = (
    "no other category under its licence: `wrong_type` pastes no other product; "
    "`anomalysmith generate --other-products DIR` takes them from a folder of good images"
)


def images_of_others(
    settings: CategorySettings, own: Collection[str]
) -> tuple[list[PlannedImage], list[str]]:
    """The donating images, and one line for each source that cannot donate.

    `own` are the digests of the category's own images, which are no other product.
    """
    if "wrong_type" not in (settings.edits.kinds or ("wrong_type",)) or (
        settings.edits.preset == "paper"
    ):
        return [], []
    # Rendered scenes are examples: nobody waits for other products in them.
    if not settings.other_products:
        return [], [] if settings.scenes else [ALONE]
    images: list[PlannedImage] = []
    notes: list[str] = []
    for source in settings.other_products:
        try:
            entries = _first_normals(source)
        # Another category's folder must not cost this one.
        except (AnomalysmithError, OSError) as error:
            notes.append(f"{source.name} donates no product: {error}")
            continue
        images += _planned(source, entries, own)
    # Every category keeps its share where there are many.
    least = max(1, IN_ALL // len(settings.other_products))
    kept = [image for n, image in enumerate(images) if _place(images, n) < least]
    return kept, notes


def _first_normals(source: OtherProduct) -> list[SourceEntry]:
    listing = read_source(
        source.kind, source.root, source.name, source.follow_links, source.options
    )
    normal = [entry for entry in listing.entries if entry.split != "test" and entry.defect == GOOD]
    return sorted(normal, key=lambda entry: entry.name)[:PER_CATEGORY]


def _planned(
    source: OtherProduct, entries: list[SourceEntry], own: Collection[str]
) -> list[PlannedImage]:
    found = []
    for number, entry in enumerate(entries):
        try:
            digest = file_digest(entry.path)
        # Whoever generates that category hears of it.
        except (ImageError, OSError):
            continue
        split: Split = "validation" if number % HELD_OUT == HELD_OUT - 1 else "train"
        if digest not in own:
            name = f"{source.name}/{entry.name}"
            found.append(PlannedImage(name, str(entry.path), split, digest, category=source.name))
    return found


def _place(images: list[PlannedImage], n: int) -> int:
    """How many images of the same category come before image `n`."""
    return sum(image.category == images[n].category for image in images[:n])
