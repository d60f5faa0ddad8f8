"""Curate a version: publish another one without the samples that reviewers rejected."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dataset.files import GALLERY
from pipeline.dataset.version import Version, open_version
from pipeline.errors import UserError
from pipeline.review.about import Reviews, reviews_of
from pipeline.review.log import review_log


@dataclass(frozen=True, slots=True, eq=False)
class Curated:
    """The version that was curated, the decisions about it, and the version without the rejects.

    Both versions are the same where nothing was rejected.
    """

    parent: Version
    reviews: Reviews
    version: Version

    def to_json(self) -> dict[str, Any]:
        return {
            "category": self.version.category,
            "parent_dir": str(self.parent.dir.resolve()),
            "version_dir": str(self.version.dir.resolve()),
            "digest": self.version.digest,
            "left_out": list(self.reviews.samples("reject")),
            "accepted": self.version.index["counts"]["accepted"],
            "reviews": self.reviews.to_json(),
            "elsewhere": self.reviews.elsewhere,
            "unreadable": self.reviews.unreadable,
        }


def curate(
    version_dir: Path,
    reviews: Path | None = None,
    progress: Callable[[int], None] | None = None,
    waiting: Callable[[], None] | None = None,
) -> Curated:
    """Publish the version without its rejected samples, or find the one that was published before.

    `reviews` is by default the file beside the version. UserError when the decisions are about
    other samples, and for a version that is not in the folder of its category.
    """
    parent = open_version(version_dir)
    home = parent.dir.resolve().parent
    if home.name != parent.category:
        raise UserError(
            f"{version_dir} is not in a store: its folder would be called {parent.category}, got "
            f"{home.name}; the curated version goes beside it"
        )
    found = reviews_of(parent, reviews or review_log(version_dir).path)
    if not found.samples("reject"):
        return Curated(parent, found, parent)
    # After what may be wrong with the decisions: these take seconds.
    from pipeline.generation.publish import publish
    from pipeline.review.curate import (
        curated_header,
        curated_results,
        rejects_to_keep,
        test_images,
    )

    sizes = [shard["images"] for shard in parent.index["shards"] if shard["role"] == "samples"]
    version = publish(
        home.parent,
        parent.category,
        curated_results(parent, found),
        test_images(parent),
        curated_header(parent, found),
        # Everything else as the version has it.
        profile=parent.index["profile"],
        shard_images=max(sizes),
        keep_rejects=rejects_to_keep(parent, found),
        gallery=(parent.dir / GALLERY).is_file(),
        audit="audit" in parent.index,
        progress=progress,
        waiting=waiting,
    )
    return Curated(parent, found, version)
