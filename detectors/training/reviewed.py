"""What the decisions of people about a version mean for a training.

Rejected samples are left out of everything: of what a detector trains on, and of what it is judged
on. Samples that are unsure or disputed are drawn half as often where a detector trains on samples;
where it is judged they count like the others. All others count in full, reviewed or not.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from detectors.data.views import Weights
from detectors.training.checkpoint import ReviewCard
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.review.about import reviews_of

# How much a sample counts about which reviewers are unsure, or of different minds.
UNSURE_WEIGHT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Reviewed:
    """The weights of the reviewed samples of a version, and the record for the checkpoint."""

    weights: Weights
    card: ReviewCard

    @property
    def note(self) -> str:
        """What the decisions change, in one line."""
        rejected, unsure = len(self.card.rejected), len(self.card.unsure)
        return (
            f"reviews: {rejected} rejected samples are left out, {unsure} unsure or disputed ones "
            f"count {self.card.unsure_weight:g} where the detector trains on samples"
        )

    @classmethod
    def of(cls, version: Version, path: Path) -> Self:
        """From a file of decisions; UserError when none of them is about the version."""
        found = reviews_of(version, path)
        rejected, unsure = found.samples("reject"), found.samples("unsure", "disputed")
        if len(rejected) == version.index["counts"]["accepted"]:
            raise UserError(f"all samples of {version.dir} are rejected; generate others")
        weights = {found.places[sample]: UNSURE_WEIGHT for sample in unsure}
        card = ReviewCard(
            sha256=found.sha256,
            versions=found.versions,
            reviewed=len(found.joint),
            rejected=rejected,
            unsure=unsure,
            unsure_weight=UNSURE_WEIGHT,
        )
        return cls(weights | dict.fromkeys((found.places[s] for s in rejected), 0.0), card)
