"""A version without the samples that reviewers rejected, as rows to be published.

What is kept is what the version holds: equal records, equal pixels, equal masks, so every kept
sample has the digest that it had. A sample that was left out becomes one more rejected attempt,
whose reason is `rejected_in_review`. Nothing is computed again and no model is needed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.dataset.lineage import REVIEWED, sample_record
from pipeline.dataset.sample_id import sample_id
from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version
from pipeline.dataset.version_writer import VersionHeader
from pipeline.errors import UserError
from pipeline.records import (
    WHOLE_PART,
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    TestImage,
    Verdict,
)
from pipeline.review.about import Reviews
from pipeline.review.refused import refused_by, with_refused
from pipeline.utils.hashing import canonical_json, digest_of


def curated_header(version: Version, reviews: Reviews) -> VersionHeader:
    """The header of the curated version: that of the version, its parent, and the reviews.

    The digest of its plan depends on the version and on the samples that are left out, so that
    further decisions which leave out nothing more lead to the same version.
    """
    index = version.index
    left_out = reviews.samples("reject")
    refused = with_refused([version], refused_by(version, left_out))
    height_width = index.get("original_size")
    return VersionHeader(
        settings=index["settings"],
        plan_digest=digest_of({"curated": version.digest, "without": sorted(left_out)}),
        weights=index["weights"],
        code_version=index["code_version"],
        licence=index["licence"],
        failures=index["failures"],
        defects_config=index.get("defects_config"),
        original_size=(height_width[0], height_width[1]) if height_width else None,
        software=index.get("software", {}),
        limits=index.get("limits", {}),
        parent=version.name,
        reviews=reviews.to_json() | {"curated": version.name, "refused": refused},
    )


def curated_results(version: Version, reviews: Reviews) -> Iterator[ImageResult]:
    """The images of the version with all attempts; rejected samples are rejected attempts."""
    left_out = set(reviews.samples("reject"))
    by_image: dict[str, list[dict[str, Any]]] = {}
    for row in version.attempts():
        by_image.setdefault(row["image"], []).append(row)
    number = {shard.path.name: shard for shard in version.shards}
    if version.rejects is not None:
        number[version.rejects.path.name] = version.rejects
    for shard in version.shards:
        for i in range(shard.images):
            result = _image(shard, i)
            attempts = tuple(
                _attempt(version, result, row, number) for row in by_image.get(result.name, ())
            )
            yield replace(result, attempts=tuple(_judged(result, a, left_out) for a in attempts))


def test_images(version: Version) -> Iterator[TestImage]:
    """The real test split, as the version holds it."""
    for pixels_HW3, masks_KHW, values_K, record in version.test_images():
        yield TestImage(
            record["name"], record["digest"], record["defect"], pixels_HW3, masks_KHW, values_K
        )


def rejects_to_keep(version: Version, reviews: Reviews) -> int:
    """How many rejected samples the curated version stores: those of before, and those left out."""
    before = 0 if version.rejects is None else version.rejects.samples
    return before + len(reviews.samples("reject"))


def _image(shard: ShardReader, i: int) -> ImageResult:
    """One normal image, without attempts."""
    record, masks = shard.image_record(i), shard.proposals(i)
    found = record["foreground"]
    foreground = ForegroundMask(
        shard.foreground(i), found["peak"], found["fallback"], found["backend"]
    )
    # Absent in versions of older releases, which knew no hierarchy.
    parents = record.get("parents", [WHOLE_PART] * len(masks[1]))
    proposals = ObjectProposals(
        masks[0], masks[1], foreground.mask_HW, tuple(record["relaxed"]),
        parent_N=np.array(parents, np.int32), again=record.get("asked_again", 0),
    )  # fmt: skip
    return ImageResult(
        record["name"], record["digest"], record["split"], shard.original(i), foreground,
        proposals, (),
    )  # fmt: skip


def _attempt(
    version: Version,
    result: ImageResult,
    row: Mapping[str, Any],
    shards: Mapping[str, ShardReader],
) -> Attempt:
    """An attempt from its row of the table; with its sample where that is stored.

    UserError where the record of the sample would not come out as it is stored.
    """
    sample, findings, record = None, (), {}
    if row["shard"] is not None:
        shard, j = shards[row["shard"]], row["row"]
        record = shard.record(j)
        edit, findings = Edit.from_json(record["edit"]), tuple(record.get("findings", ()))
        sample = Sample(edit, shard.edited(j), shard.mask(j), shard.object_mask(j))
    verdict = Verdict(
        row["accepted"], row["reason"], row["scores"], row.get("rule") or "",
        tuple(row.get("broken") or ()), findings,
    )  # fmt: skip
    attempt = Attempt(
        row["number"], row["attempt"], row["kind"], row["seed"], sample, verdict, row["seconds"]
    )
    # Equality is what a curated version promises, so it is checked and not hoped for.
    if sample and canonical_json(sample_record(result, attempt)) != canonical_json(record):
        raise UserError(
            f"{version.dir} was made by another release, whose record of {record['id']} this one "
            "would change; generate the version again and review that one"
        )
    return attempt


def _judged(result: ImageResult, attempt: Attempt, left_out: set[str]) -> Attempt:
    """The attempt, rejected where its sample is left out."""
    sample = sample_id(result.name, attempt.number, attempt.attempt)
    if not attempt.verdict.accepted or sample not in left_out:
        return attempt
    return replace(attempt, verdict=replace(attempt.verdict, accepted=False, reason=REVIEWED))
