"""The good images that rules are drafted from or checked on, and what a book says about them.

Only normals: a draft reads the training split alone, so validation normals are there to check it.
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
from pipeline.imaging.decode import load_image
from pipeline.models import build as models
from pipeline.records import GOOD
from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.check import broken_rules, seen_in
from pipeline.rulebook.parts import FindParts, finder
from pipeline.sources.listing import read_source
from pipeline.sources.splits import split_entries

MANY = 60
"""Normals that a draft reads unless told otherwise: more make it slower, not better."""


@dataclass(slots=True)
class Agreement:
    """How normals keep a book, and how samples break it; `broken` counts pictures per rule."""

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


def part_finder(settings: CategorySettings) -> FindParts:
    """Parts as a run of this category would find them."""
    from pipeline.models import device as devices

    devices.one_thread()
    files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    return finder(models.load(settings.models, settings.proposals, files))


def good_images(
    settings: CategorySettings, splits: Sequence[str], limit: int | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and pixels of the good images of some splits, spread over the folder when limited.

    UserError when there is none; an unreadable image is left out.
    """
    listing = read_source(settings.kind, settings.root, settings.name)
    entries = split_entries(
        listing.entries, settings.splits.validation_fraction, settings.split_seed
    )
    wanted = sorted(
        (entry for entry in entries if entry.split in splits and entry.defect == GOOD),
        key=lambda entry: entry.name,
    )
    if not wanted:
        raise UserError(f"{settings.root}: no good image in {' or '.join(splits)}")
    if limit is not None and limit < len(wanted):
        wanted = [wanted[k] for k in np.linspace(0, len(wanted) - 1, limit).round().astype(int)]
    for entry in wanted:
        try:
            yield entry.name, load_image(Path(entry.path), settings.image_size)
        except ImageError:
            continue


def check_normals(
    book: RuleBook, find: FindParts, images: Iterator[tuple[str, np.ndarray]]
) -> Agreement:
    """Ask every rule of normal images."""
    agreement = Agreement()
    for name, image_HW3 in images:
        _ask(agreement, book, find, name, image_HW3)
    return agreement


def check_version(
    book: RuleBook, find: FindParts, version: Version, limit: int | None = None
) -> Agreement:
    """Ask every rule of a version's originals, and of its samples whether they break just theirs.

    Samples are those with a `rule` in their record; a control has to break none. A rule that the
    original breaks as well counts for neither.
    """
    from pipeline.rulebook.judge import Judge

    agreement, judge = Agreement(), Judge(book, find)
    asked_of: set[str] = set()
    for image_HW3, record in version.images():
        if limit is not None and agreement.normals == limit:
            break
        asked_of.add(record["name"])
        _ask(agreement, book, find, record["name"], image_HW3)
    for image_HW3, pixels_HW3, change_HW, record in version.samples():
        if "rule" not in record or record["source"]["name"] not in asked_of:
            continue
        found = judge.broken_by(image_HW3, pixels_HW3, change_HW)
        agreement.samples += 1
        if set(found) == set(filter(None, record["rule"].split("+"))):
            agreement.as_labelled += 1
        else:
            agreement.others[record["id"]] = found
    return agreement


def _ask(
    agreement: Agreement, book: RuleBook, find: FindParts, name: str, image_HW3: np.ndarray
) -> set[str]:
    broken = broken_rules(book, seen_in(book, find(image_HW3)))
    agreement.normals += 1
    agreement.keep += not broken
    agreement.broken.update(broken.keys())
    if broken:
        agreement.faults[name] = broken
    return set(broken)
