"""Parts: counts the parts of a product, checks their places and looks, and says what is wrong.

It cannot see what no rule is about: a scratch, a stain, a crack that leaves a part its shape. And
it is for products with parts: on textures it refuses to be fitted.

Parts are found and described as for rule books. Rules are those of a given book, or of a draft from
the training normals (`pipeline/rulebook/draft.py`), after the composition maps of SALAD (Fučka et
al., ICCV 2025) and the histograms of components of CSAD (Hsieh, Lai, BMVC 2024). No step is
trained. A rule counts by how far an image is from good ones in their own spread (`scales.Scales`),
so a part that is overlooked in one of fifty good images raises no alarm by itself. An image scores
as its most unusual kind of rule.

Shapes: B batch; N normals; M samples; R rules; P kinds of rules; H, W image; 3 colour (RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.base import Batches, Detector, DetectorEntry, Reason, Region, Schedule, Scores
from detectors.models.parts.finder import BatchFinder, MachineFinder
from detectors.models.parts.map import empty_places, painted
from detectors.models.parts.places import Places
from detectors.models.parts.scales import Scales, rate_among
from detectors.models.parts.settings import PartsSettings
from detectors.models.parts.statistics import KINDS, extensions, kind_of, rule_names
from detectors.models.parts.stored_book import StoredBook
from detectors.networks.any_shape import AnyShape
from pipeline.imaging.masks import bounding_box
from pipeline.rulebook.book import RuleBook, load
from pipeline.rulebook.check import frame_in, recognised_in
from pipeline.rulebook.draft import draft
from pipeline.rulebook.findings import Finding, findings_of
from pipeline.rulebook.parts import Parts, ProductFrame

# Share of good images up to which a deviation is a reason, for broken rules and for kept ones; the
# score that a kept one needs besides, since one image in N is always the most unusual of N; and the
# most reasons that are given.
BROKEN, KEPT, NOTABLE, MOST = 0.1, 0.02, 3.0, 5


@dataclass(frozen=True, slots=True)
class Judged:
    """A finding, its score on the scale of image scores, and the share of good images like it."""

    finding: Finding
    score: float
    rate: float


class Normals(AnyShape):
    """Good images: deviations (N, R) of those of the fit, by kind (N, P) of held-out ones."""

    offs_NR: Tensor
    kinds_NP: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offs_NR", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("kinds_NP", torch.zeros(0, len(KINDS), dtype=torch.float64))


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
        seen = [recognised_in(self.book, parts) for parts in found]
        self.places.learn(list(self.book.book.parts), found, seen)
        # Places are judged by the other images: an image knows all of its own.
        self.normals.offs_NR = self._offs(found, own=True)

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
        return self._by_kind(self._offs(self._parts_of(images_B3HW))).float()

    @torch.no_grad()
    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor) -> None:
        """How unusual a kind of rule is follows from held-out normals alone."""
        self.normals.kinds_NP = normals_NP.double().to(self.normals.kinds_NP.device)

    def combined(self, parts_BP: Tensor) -> Tensor:
        return Scales.of(self.normals.kinds_NP)(parts_BP).amax(1).float()

    def forward(self, images_B3HW: Tensor) -> Scores:
        found = self._parts_of(images_B3HW)
        findings = [self._findings(parts) for parts in found]
        image_B = self.combined(self._by_kind(_offs_of(findings)).float())
        maps = [
            painted(parts, [(one.score, one.finding) for one in self._judged(of)],
                    self._frame(parts))
            for parts, of in zip(found, findings, strict=True)
        ]  # fmt: skip
        return Scores(image_B.to(images_B3HW.device),
                      torch.from_numpy(np.stack(maps)).to(images_B3HW.device))  # fmt: skip

    def reasons(self, images_B3HW: Tensor) -> list[list[Reason]]:
        """Broken rules, and kept ones that few good images come as near to breaking."""
        # The smallest rate that so few good images can show.
        lowest = 1 / (len(self.normals.kinds_NP) + 1)
        return [
            [
                self._reason(parts, one)
                for one in self._judged(self._findings(parts))
                if one.rate <= max(BROKEN if one.finding.broken else KEPT, lowest)
                and (one.finding.broken or one.score >= NOTABLE)
            ][:MOST]
            for parts in self._parts_of(images_B3HW)
        ]

    def regions(self, images_B3HW: Tensor) -> list[list[Region]]:
        return [
            [
                Region(part.name or "unknown", mask_HW)
                for part, mask_HW in zip(
                    recognised_in(self.book, parts), parts.masks_NHW, strict=True
                )
            ]
            for parts in self._parts_of(images_B3HW)
        ]

    def _reason(self, parts: Parts, judged: Judged) -> Reason:
        finding = judged.finding
        missing = tuple(empty_places(finding, self._frame(parts)))
        # The parts that are there are not what is wrong where others are missing.
        wrong = () if missing else finding.parts
        boxes = tuple(bounding_box(parts.masks_NHW[number]) for number in wrong)
        return Reason(finding.rule, finding.expected, finding.found, boxes, missing, judged.rate)

    def _parts_of(self, images_B3HW: Tensor) -> list[Parts]:
        self.finder.require(self.stored.networks)
        return self.finder.parts_by(self.book, images_B3HW)

    def _frame(self, parts: Parts) -> ProductFrame:
        return frame_in(self.book, parts.frame, parts.masks_NHW.shape[1:])

    def _findings(self, parts: Parts, own: int = -1) -> list[Finding]:
        """Every rule on one image, in the order of `rule_names`."""
        seen = recognised_in(self.book, parts)
        found = findings_of(self.book, seen)
        # A person who gave a book has said all that is to be checked.
        if self.settings.rules is None:
            where = self.places.worst(list(self.book.book.parts), parts, seen, own)
            found += extensions(self.book, seen, where)
        return found

    def _offs(self, found: Sequence[Parts], own: bool = False) -> Tensor:
        """The deviation (B, R) of every image by every rule; `own` for the fit's own images."""
        return _offs_of([self._findings(parts, k if own else -1) for k, parts in enumerate(found)])

    def _unusual(self, offs_BR: Tensor) -> Tensor:
        """How unusual each deviation is among the fit's normals, (B, R); 0 for usual ones.

        On a logarithmic scale: one odd good image must not hide all that is less odd than it.
        """
        return Scales.of(self.normals.offs_NR.cpu())(offs_BR).clamp(min=0).log1p()

    def _by_kind(self, offs_BR: Tensor) -> Tensor:
        """The most unusual rule of each kind, (B, P); 0 for kinds without a rule."""
        unusual_BR = self._unusual(offs_BR)
        names = rule_names(self.book, self.settings.rules is None)
        kinds = [kind_of(self.book, rule) for rule in names]
        nothing_B = unusual_BR.new_zeros(len(unusual_BR))
        columns = [
            [nothing_B, *(unusual_BR[:, rule] for rule, of in enumerate(kinds) if of == kind)]
            for kind in KINDS
        ]
        return torch.stack([torch.stack(column).amax(0) for column in columns], 1)

    def _judged(self, findings: Sequence[Finding]) -> list[Judged]:
        """Every rule of one image on the scale of image scores, the highest first."""
        unusual_R = self._unusual(_offs_of([findings]))[0]
        kinds_NP = self.normals.kinds_NP.cpu()
        scales, judged = Scales.of(kinds_NP), []
        for value, finding in zip(unusual_R, findings, strict=True):
            kind = KINDS.index(kind_of(self.book, finding.rule))
            score = float(scales(value.expand(1, len(KINDS)))[0, kind])
            judged.append(Judged(finding, score, rate_among(value, kinds_NP[:, kind])))
        return sorted(judged, key=lambda one: -one.score)


def _offs_of(findings: Sequence[Sequence[Finding]]) -> Tensor:
    """Deviations of the rules of some images, (B, R) float64."""
    offs = [[finding.off for finding in of] for of in findings]
    return torch.tensor(offs, dtype=torch.float64).reshape(len(offs), -1)


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
