"""Check a rule book on normal images and on the samples of a version.

A draft is learned from the training split alone, so validation normals can check it.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import Version
from pipeline.errors import ImageError, UserError
from pipeline.generation.study import StudiedFinder
from pipeline.imaging.decode import file_digest, load_image
from pipeline.records import GOOD
from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.check import broken_rules, recognised_in
from pipeline.rulebook.second_look import Finder, parts_of
from pipeline.sources.listing import read_source
from pipeline.sources.splits import split_entries

# Normals that a draft or a check reads by default: more make it slower, not better.
DEFAULT_LIMIT = 60


@dataclass(slots=True)
class Agreement:
    """How many normals keep every rule, and how many samples break exactly their rule.

    `broken` counts normals per broken rule, `faults` holds their broken rules by image name, and
    `others` the broken rules of samples that do not break exactly their own.
    """

    normals: int = 0
    keep: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    faults: dict[str, dict[str, str]] = field(default_factory=dict)
    samples: int = 0
    as_labelled: int = 0
    others: dict[str, list[str]] = field(default_factory=dict)

    @property
    def false_alarms(self) -> float:
        """Share of the normals that break any rule."""
        return 1 - self.keep / self.normals if self.normals else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "normals": self.normals,
            "keep_every_rule": self.keep,
            "false_alarm_rate": round(self.false_alarms, 4),
            "broken": dict(self.broken.most_common()),
            "images": self.faults,
            "samples": self.samples,
            "break_their_rule_only": self.as_labelled,
            "other_samples": self.others,
        }


def good_images(
    settings: CategorySettings,
    find: StudiedFinder,
    splits: Sequence[str],
    limit: int | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and (H, W, 3) uint8 pixels of the good images of some splits, sorted by name.

    With `limit`, images are taken at even distances, so they are from all over the folder. `find`
    hears of which file each is. Raises UserError when there is none; unreadable images are skipped.
    """
    listing = read_source(
        settings.kind, settings.root, settings.name, settings.follow_links, settings.options
    )
    entries = split_entries(
        listing.entries, settings.splits.validation_fraction, settings.split_seed
    )
    # By name, so that a limit takes the same images every time.
    wanted = sorted(
        (entry for entry in entries if entry.split in splits and entry.defect == GOOD),
        key=lambda entry: entry.name,
    )
    if not wanted:
        raise UserError(f"{settings.root}: no good image in {' or '.join(splits)}")
    # Spread evenly over the sorted names.
    if limit is not None and limit < len(wanted):
        wanted = [wanted[k] for k in np.linspace(0, len(wanted) - 1, limit).round().astype(int)]
    for entry in wanted:
        try:
            image_HW3 = load_image(Path(entry.path), settings.image_size)
            # After reading, not before: a file may be replaced meanwhile.
            find.of_file(image_HW3, file_digest(Path(entry.path)))
        except ImageError:
            continue
        yield entry.name, image_HW3


def check_normals(
    book: RuleBook, find: Finder, images: Iterator[tuple[str, np.ndarray]]
) -> Agreement:
    """Evaluate every rule on normal images."""
    agreement = Agreement()
    for name, image_HW3 in images:
        _check(agreement, book, find, name, image_HW3)
    return agreement


def check_version(
    book: RuleBook, find: StudiedFinder, version: Version, limit: int | None = None
) -> Agreement:
    """Evaluate every rule on the originals of a version, and check which rules its samples break.

    Only samples with a `rule` in their record count; a control must break none. A rule that the
    original breaks as well does not count.
    """
    from pipeline.rulebook.judge import Judge

    agreement, judge = Agreement(), Judge(book, find)
    # With a limit, samples of other images are skipped.
    checked: set[str] = set()
    for image_HW3, record in version.images():
        # Images of a version are in a fixed order, so a limit takes the same ones.
        if limit is not None and agreement.normals == limit:
            break
        checked.add(record["name"])
        find.of_file(image_HW3, record["digest"])
        _check(agreement, book, find, record["name"], image_HW3)
    for image_HW3, pixels_HW3, change_HW, record in version.samples():
        if "rule" not in record or record["source"]["name"] not in checked:
            continue
        # Rules that the sample breaks and its original does not.
        found = judge.broken_by(image_HW3, pixels_HW3, change_HW)
        agreement.samples += 1
        # A combined edit names its rules as "a+b", a control none.
        if set(found) == set(filter(None, record["rule"].split("+"))):
            agreement.as_labelled += 1
        else:
            agreement.others[record["id"]] = found
    return agreement


def _check(
    agreement: Agreement, book: RuleBook, find: Finder, name: str, image_HW3: np.ndarray
) -> None:
    """Count one normal image and the rules that it breaks."""
    # The parts in this image, as the rules see them.
    broken = broken_rules(book, recognised_in(book, parts_of(book, find, image_HW3)))
    agreement.normals += 1
    agreement.keep += not broken
    agreement.broken.update(broken.keys())
    if broken:
        agreement.faults[name] = broken
