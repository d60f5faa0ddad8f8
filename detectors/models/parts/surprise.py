"""How surprising deviations are: by good images of the fit, and by good images it has not seen.

Every rule counts by its distance from the fit's normals in their own spread, every kind of rule by
that from held-out ones. So a rule that the finder itself often breaks is no news, and a fit that
knows its own images too well raises no alarm.

Shapes: B images; N normals; R rules; P kinds of rules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.models.parts.scales import Scales, rate_among
from detectors.models.parts.statistics import KINDS, kind_of, rule_names
from detectors.networks.any_shape import AnyShape
from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.findings import Finding


@dataclass(frozen=True, slots=True)
class Judged:
    """A finding, its score on the scale of image scores, and the share of good images like it."""

    finding: Finding
    score: float
    rate: float

    @property
    def sure(self) -> float:
        """How sure it is: the parts are what they are taken for, and good images are not so."""
        return self.finding.sure * (1 - self.rate)


class Normals(AnyShape):
    """Good images: deviations (N, R) of those of the fit, by kind (N, P) of held-out ones."""

    offs_NR: Tensor
    kinds_NP: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offs_NR", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("kinds_NP", torch.zeros(0, len(KINDS), dtype=torch.float64))

    def by_kind(self, book: RuleBook, drafted: bool, offs_BR: Tensor) -> Tensor:
        """The most unusual rule of each kind, (B, P); 0 for kinds without a rule."""
        unusual_BR = self._unusual(offs_BR)
        kinds = [kind_of(book, rule) for rule in rule_names(book, drafted)]
        nothing_B = unusual_BR.new_zeros(len(unusual_BR))
        columns = [
            [nothing_B, *(unusual_BR[:, rule] for rule, of in enumerate(kinds) if of == kind)]
            for kind in KINDS
        ]
        return torch.stack([torch.stack(column).amax(0) for column in columns], 1)

    def score(self, kinds_BP: Tensor) -> Tensor:
        """That of the most unusual kind on the scale of held-out normals, (B,) float32."""
        return Scales.of(self.kinds_NP)(kinds_BP).amax(1).float()

    def judged(self, book: RuleBook, findings: Sequence[Finding]) -> list[Judged]:
        """Every rule of one image on the scale of image scores, the highest first."""
        unusual_R = self._unusual(offs_of([findings]))[0]
        kinds_NP = self.kinds_NP.cpu()
        scales, judged = Scales.of(kinds_NP), []
        for value, finding in zip(unusual_R, findings, strict=True):
            kind = KINDS.index(kind_of(book, finding.rule))
            score = float(scales(value.expand(1, len(KINDS)))[0, kind])
            judged.append(Judged(finding, score, rate_among(value, kinds_NP[:, kind])))
        return sorted(judged, key=lambda one: -one.score)

    def _unusual(self, offs_BR: Tensor) -> Tensor:
        """How unusual each deviation is among the fit's normals, (B, R); 0 for usual ones.

        On a logarithmic scale: one odd good image must not hide all that is less odd than it.
        """
        return Scales.of(self.offs_NR.cpu())(offs_BR).clamp(min=0).log1p()


def offs_of(findings: Sequence[Sequence[Finding]]) -> Tensor:
    """Deviations of the rules of some images, (B, R) float64."""
    offs = [[finding.off for finding in of] for of in findings]
    return torch.tensor(offs, dtype=torch.float64).reshape(len(offs), -1)
