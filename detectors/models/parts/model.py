"""Parts: counts the parts of a product, checks their places and looks, and says what is wrong.

It looks at every part under magnification, too (`surfaces.py`): a crack, a stain, a missing piece.
It is for products with parts: on textures it refuses to be fitted.

Parts are found and described as for rule books. Rules are those of a given book, or of a draft from
the training normals (`pipeline/rulebook/draft.py`), after the composition maps of SALAD (Fučka et
al., ICCV 2025) and the histograms of components of CSAD (Hsieh, Lai, BMVC 2024). No step is
trained. A rule counts by how far an image is from good ones in their own spread (`scales.Scales`),
so a part that is overlooked in one of fifty good images raises no alarm by itself. An image scores
as its most unusual kind of rule. What no kind explains is compared with patches of good images
(`unexplained.py`).

Shapes: B batch; N normals; M samples; R rules; P kinds of rules; H, W image; 3 colour (RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.base import Batches, Detector, DetectorEntry, Reason, Region, Schedule, Scores
from detectors.models.parts.finder import BatchFinder, MachineFinder
from detectors.models.parts.map import empty_places, painted
from detectors.models.parts.places import Places
from detectors.models.parts.settings import PartsSettings
from detectors.models.parts.statistics import SURFACE, UNEXPLAINED, extensions
from detectors.models.parts.stored_book import StoredBook
from detectors.models.parts.surfaces import Known, Surface, Surfaces
from detectors.models.parts.surprise import Judged, Normals, offs_of
from detectors.models.parts.unexplained import Strange, Unexplained
from pipeline.imaging.masks import bounding_box
from pipeline.rulebook.book import RuleBook, load
from pipeline.rulebook.check import frame_in, recognised_in
from pipeline.rulebook.draft import draft
from pipeline.rulebook.findings import Finding, RecognisedPart, findings_of
from pipeline.rulebook.parts import Parts, ProductFrame

# Share of good images up to which a deviation is a reason, for broken rules and for kept ones; the
# score that a kept one needs besides, since one image in N is always the most unusual of N; and the
# most reasons that are given.
BROKEN, KEPT, NOTABLE, MOST = 0.1, 0.02, 3.0, 5


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """The parts of an image as a rule book sees them, what no kind explains, and all findings.

    `surfaces` are those of recognised parts.
    """

    parts: Parts
    named: Sequence[RecognisedPart]
    strange: Strange
    surfaces: Sequence[Surface]
    findings: Sequence[Finding]


class PartsDetector(Detector):
    """A rule book, the places of parts, and the deviations of good images from all rules.

    `offs_NR` are those of the fit's normals by rule, `kinds_NP` what held-out normals have
    by kind of rule.
    """

    exact = True
    exportable = False
    explains = True
    settings: PartsSettings

    def __init__(self, settings: PartsSettings, finder: BatchFinder) -> None:
        super().__init__(settings)
        self.finder = finder
        self.stored = StoredBook()
        self.places = Places()
        self.normals = Normals()
        channels = finder.levels.middle, finder.levels.coarse
        self.unexplained = Unexplained(channels)
        self.surfaces = Surfaces(channels)
        # Book, images and what was seen in them: scores, reasons and regions ask for the same.
        self._last: tuple[RuleBook, Tensor, list[Seen]] | None = None

    @property
    def book(self) -> RuleBook:
        """The rule book: the given one, or the draft."""
        return self.stored.book

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """Draft the rule book, or load the given one, and measure the normals by it.

        UserError when nothing recurs in the normals, as on textures.
        """
        if self.settings.rules is not None:
            book = load(self.settings.rules)
        else:
            book = self._drafted(normals)
        self.stored.keep(book, self.finder.machine.digests)
        found = self._found(normals)
        named = [recognised_in(self.book, parts) for parts in found]
        self.places.learn(list(self.book.book.parts), found, named)
        levels = (self.finder.patches(batch["image"], keep=True) for batch in normals)
        self.unexplained.learn(levels, len(found))
        strange, at = [], 0
        for batch in normals:
            here = slice(at, at + len(batch["image"]))
            levels_of = self.finder.patches(batch["image"])
            strange += self.unexplained.of(levels_of, found[here], named[here])
            at = here.stop
        self.unexplained.settle(strange)
        surfaces = self._surfaces_of_fit(normals, found, named)
        # Places are judged by the other images: an image knows all of its own.
        self.normals.offs_NR = offs_of([
            self._findings(*one, own)
            for own, one in enumerate(zip(found, named, strange, surfaces, strict=True))
        ])  # fmt: skip

    def _surfaces_of_fit(
        self, normals: Batches, found: Sequence[Parts], named: Sequence[Sequence[RecognisedPart]]
    ) -> list[list[Surface]]:
        """Learn the surfaces of good parts, unless a given book says all that is to be checked."""
        if self.settings.rules is not None:
            return [[] for _ in found]
        known = [self._known(*one) for one in zip(found, named, strict=True)]
        kinds, describe = len(self.book.book.parts), partial(self.finder.patches, keep=True)
        return self.surfaces.learn(normals, known, kinds, describe)

    def _known(self, parts: Parts, seen: Sequence[RecognisedPart]) -> Known:
        names = list(self.book.book.parts)
        kinds = [names.index(one.name) if one.name in names else -1 for one in seen]
        return parts.masks_NHW, kinds

    def _drafted(self, normals: Batches) -> RuleBook:
        """A draft from parts that were looked at again by a first draft."""
        first = draft([one for b in normals for one in self.finder.parts(b["image"])], "parts")
        self.stored.keep(RuleBook(first.book, first.examples, ""), {})
        second = draft(self._found(normals), "parts")
        return RuleBook(second.book, second.examples, "")

    def _found(self, normals: Batches) -> list[Parts]:
        return [one for b in normals for one in self.finder.parts_by(self.book, b["image"])]

    def inherit(self, other: Detector) -> None:
        if isinstance(other, PartsDetector):
            self.finder.share(other.finder)

    def parts(self, images_B3HW: Tensor) -> Tensor:
        return self._by_kind(self._seen(images_B3HW)).float()

    @torch.no_grad()
    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        """How unusual a kind of rule is follows from held-out normals alone."""
        self.normals.kinds_NP = normals_NP.double().to(self.normals.kinds_NP.device)

    def combined(self, parts_BP: Tensor) -> Tensor:
        return self.normals.score(parts_BP)

    def forward(self, images_B3HW: Tensor) -> Scores:
        seen = self._seen(images_B3HW)
        image_B = self.combined(self._by_kind(seen).float())
        maps = torch.from_numpy(np.stack([self._map(one) for one in seen]))
        return Scores(image_B.to(images_B3HW.device), maps.to(images_B3HW.device))

    def _map(self, one: Seen) -> np.ndarray:
        judged = self.normals.judged(self.book, one.findings)
        # Patches have maps of their own, as high as the score.
        own = {UNEXPLAINED: one.strange.map_HW / (one.strange.distance or 1.0)}
        by_number = {surface.number: surface for surface in one.surfaces}
        for each in judged:
            if each.finding.rule.endswith(f".{SURFACE}") and each.finding.parts:
                (number,) = each.finding.parts
                own[each.finding.rule] = by_number[number].map_HW(one.strange.map_HW.shape)
        scored = [(each.score, each.finding) for each in judged if each.finding.rule not in own]
        map_HW = painted(one.parts, scored, self._frame(one.parts))
        for each in judged:
            if each.finding.rule in own:
                np.maximum(map_HW, each.score * own[each.finding.rule], out=map_HW)
        return map_HW

    def reasons(self, images_B3HW: Tensor) -> list[list[Reason]]:
        """Broken rules, and kept ones that few good images come as near to breaking."""
        # The smallest rate that so few good images can show.
        lowest = 1 / (len(self.normals.kinds_NP) + 1)
        return [
            [
                self._reason(seen.parts, one)
                for one in self.normals.judged(self.book, seen.findings)
                if one.rate <= max(BROKEN if one.finding.broken else KEPT, lowest)
                and (one.finding.broken or one.score >= NOTABLE)
            ][:MOST]
            for seen in self._seen(images_B3HW)
        ]

    def regions(self, images_B3HW: Tensor) -> list[list[Region]]:
        return [
            [
                Region(part.name or "unknown", mask_HW)
                for part, mask_HW in zip(one.named, one.parts.masks_NHW, strict=True)
            ]
            for one in self._seen(images_B3HW)
        ]

    def _reason(self, parts: Parts, judged: Judged) -> Reason:
        finding = judged.finding
        missing = tuple(empty_places(finding, self._frame(parts)))
        # The parts that are there are not what is wrong where others are missing.
        wrong = () if missing else finding.parts
        boxes = tuple(bounding_box(parts.masks_NHW[number]) for number in wrong) + finding.boxes
        return Reason(
            finding.rule, finding.expected, finding.found, boxes, missing, judged.rate, judged.sure
        )

    def _seen(self, images_B3HW: Tensor) -> list[Seen]:
        """What is seen in every image, and all findings."""
        book, last = self.book, self._last
        if last is None or last[0] is not book or not torch.equal(last[1], images_B3HW.cpu()):
            self.finder.require(self.stored.networks)
            parts = self.finder.parts_by(book, images_B3HW)
            named = [recognised_in(book, one) for one in parts]
            strange = self.unexplained.of(self.finder.patches(images_B3HW), parts, named)
            # Without a draft no kind has a window, so there are none.
            known = [self._known(*one) for one in zip(parts, named, strict=True)]
            surfaces = self.surfaces.of(images_B3HW, known, self.finder.patches)
            seen = [
                Seen(*one, self._findings(*one))
                for one in zip(parts, named, strange, surfaces, strict=True)
            ]
            last = self._last = book, images_B3HW.cpu().clone(), seen
        return last[2]

    def _by_kind(self, seen: Sequence[Seen]) -> Tensor:
        offs_BR = offs_of([one.findings for one in seen])
        return self.normals.by_kind(self.book, self.settings.rules is None, offs_BR)

    def _frame(self, parts: Parts) -> ProductFrame:
        return frame_in(self.book, parts.frame, parts.masks_NHW.shape[1:])

    def _findings(
        self,
        parts: Parts,
        seen: Sequence[RecognisedPart],
        strange: Strange,
        surfaces: Sequence[Surface],
        own: int = -1,
    ) -> list[Finding]:
        """Every rule on one image, in the order of `rule_names`; `own` is its number in the fit."""
        found = findings_of(self.book, seen)
        if self.book.book.unknown:
            found.append(self.unexplained.finding(UNEXPLAINED, strange))
        # A person who gave a book has said all that is to be checked.
        if self.settings.rules is None:
            where = self.places.worst(list(self.book.book.parts), parts, seen, own)
            height, width = parts.masks_NHW.shape[1:]
            found += extensions(self.book, seen, surfaces, where, (height, width))
        return found


def _build(settings: PartsSettings, weights: Path | None) -> PartsDetector:
    # The describer reads the bundled teacher itself, as for rule books.
    return PartsDetector(settings, BatchFinder(MachineFinder()))


_SETTINGS = PartsSettings()
ENTRY = DetectorEntry(
    name="parts",
    summary="counts parts and checks their places and looks, by a rule book or a draft; names the "
    "broken rule",
    citation="Ours; after Fučka et al., 'SALAD: Semantics-Aware Logical Anomaly Detection', ICCV "
    "2025.",
    build=_build,
    paper=(_SETTINGS, Schedule(steps=0, batch_size=8, folds=5)),
    cpu=(_SETTINGS, Schedule(steps=0, batch_size=8, folds=5)),
    tiny=(_SETTINGS, Schedule(steps=0, batch_size=8)),
)
