"""Rules judge samples: the parts are found again in the edited picture, and the rules are asked.

    judge = Judge(load(path), finder(models))
    verdict = judge.judge(edit, sample, image_HW3, proposals, verdict)

An edit does not plan by rules (docs/decisions/0017). What it *should* break follows from the parts
of the source, taken away and put down as the edit says; what it *did* break follows from parts that
are found again in the edited pixels. A sample passes when both are the same and not nothing; a
control passes when nothing is broken.

The source is the measure. Where no pixel changed, the parts are those of the source, so an error of
finding there is on both sides and counts on neither. A rule that the source breaks already, as it
was found, is blind for this image: it is neither intended nor counted as broken.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.edits.registry import placed_masks
from pipeline.kinds import kind_of
from pipeline.records import Edit, ObjectProposals, Sample, Verdict
from pipeline.rulebook.book import RuleBook, load
from pipeline.rulebook.check import broken_rules, seen_in
from pipeline.rulebook.parts import Parts, finder

NO_RULE = "breaks_no_rule"
OTHER_RULES = "breaks_other_rules"
UNSEEN = "breaks_rule_unseen"
CONTROL = "breaks_a_rule"

VISIBLE = 8
"""Grey levels from which on a pixel counts as changed."""
TOUCHED = 0.2
"""Share of a part's pixels that must have changed for it to be sought again."""
TAKEN = 0.6
"""Share of a part that an edited object must cover to be that part."""
ITSELF = 0.5
"""Share of an edited object that the one part under it must cover."""


def judge_for(path: Path, models: Any) -> "Judge":
    """The judge of a rule book with a run's models."""
    return Judge(load(path), finder(models))


class Judge:
    """A rule book and a way to find parts; keeps the parts of each thread's last source image."""

    def __init__(self, book: RuleBook, find_parts: Any) -> None:
        """`find_parts(image_HW3) -> Parts`, with `describe` for masks that are known already."""
        self.book, self.find_parts = book, find_parts
        self._last = threading.local()  # workers of a run share a judge, each with its own image

    def judge(
        self,
        edit: Edit,
        sample: Sample,
        image_HW3: np.ndarray,
        proposals: ObjectProposals,
        verdict: Verdict,
    ) -> Verdict:
        """The verdict with `rule` and `broken`, refused when they do not agree."""
        before = self._parts_of(image_HW3)
        kept, found = self._found(image_HW3, sample.pixels_HW3, sample.change_HW)
        blind = set(self._broken(before))
        actual = [rule for rule in self._broken(found) if rule not in blind]
        intended: list[str] = []
        if not edit.is_control:
            expected = self._expected(edit, sample, proposals, before, kept, found)
            if expected is not None:
                intended = [rule for rule in self._broken(expected) if rule not in blind]
        scores = {**verdict.scores, "rules_broken": float(len(actual)), "rules_blind": len(blind)}
        reason = _reason(edit.is_control, intended, actual)
        return replace(
            verdict,
            accepted=not reason,
            reason=reason,
            scores=scores,
            rule="+".join(intended),
            broken=tuple(actual),
        )

    def broken_by(
        self, image_HW3: np.ndarray, pixels_HW3: np.ndarray, change_HW: np.ndarray
    ) -> list[str]:
        """Rules that the edited picture breaks and its source, as it was found, keeps."""
        blind = set(self._broken(self._parts_of(image_HW3)))
        found = self._found(image_HW3, pixels_HW3, change_HW)[1]
        return [rule for rule in self._broken(found) if rule not in blind]

    def _parts_of(self, image_HW3: np.ndarray) -> Parts:
        """Parts of a source image; its samples come one after another."""
        key = image_HW3.tobytes()
        if getattr(self._last, "key", None) != key:
            self._last.parts, self._last.key = self.find_parts(image_HW3), key
        return self._last.parts

    def _broken(self, parts: Parts) -> list[str]:
        return list(broken_rules(self.book, seen_in(self.book, parts)))

    def _found(
        self, image_HW3: np.ndarray, pixels_HW3: np.ndarray, change_HW: np.ndarray
    ) -> tuple[Parts, Parts]:
        """Untouched parts of the source, and what is there now: those and the ones found anew.

        The product has not moved, so it keeps the source's frame.
        """
        before = self._parts_of(image_HW3)
        kept = _subset(before, _untouched(before, image_HW3, pixels_HW3, change_HW))
        after = self.find_parts(pixels_HW3)
        taken_HW = kept.masks_NHW.any(0)
        fresh = [
            mask_HW
            for mask_HW in after.masks_NHW
            if (mask_HW & change_HW).sum() >= TOUCHED * mask_HW.sum()
            and (mask_HW & taken_HW).sum() <= ITSELF * mask_HW.sum()
        ]
        return kept, self._with(kept, fresh, pixels_HW3, before)

    def _expected(
        self,
        edit: Edit,
        sample: Sample,
        proposals: ObjectProposals,
        before: Parts,
        kept: Parts,
        found: Parts,
    ) -> Parts | None:
        """What the edit says should be there; None when its object is not one known part."""
        gone: set[int] = set()
        laid: list[np.ndarray] = []
        for part in edit.parts:
            masks = [proposals.masks_NHW[target] for target in part.targets]
            under = [_one_part(mask_HW, before) for mask_HW in masks]
            if any(index is None for index in under):
                return None
            if not kind_of(part.kind).adds:
                gone |= {index for index in under if index is not None}
            laid += _placed(part, masks, proposals, found, len(kept))
        staying = [index for index in range(len(before)) if index not in gone]
        return self._with(_subset(before, staying), laid, sample.pixels_HW3, before)

    def _with(
        self, kept: Parts, masks: Sequence[np.ndarray], pixels_HW3: np.ndarray, before: Parts
    ) -> Parts:
        """Kept parts and further masks, described on the edited pixels."""
        masks = [mask_HW for mask_HW in masks if mask_HW.any()]
        if not masks:
            return kept
        fresh_NHW = np.stack(masks)
        looks = self.find_parts.describe(pixels_HW3, fresh_NHW, before.frame)
        return Parts(
            np.concatenate([kept.masks_NHW, fresh_NHW]), kept.looks + tuple(looks), before.frame
        )


def _reason(control: bool, intended: Sequence[str], actual: Sequence[str]) -> str:
    if control:
        return CONTROL if actual else ""
    if not intended:
        return NO_RULE
    if set(intended) - set(actual):
        return UNSEEN
    return OTHER_RULES if set(actual) - set(intended) else ""


def _untouched(
    before: Parts, image_HW3: np.ndarray, pixels_HW3: np.ndarray, change_HW: np.ndarray
) -> list[int]:
    """Parts of the source of which hardly a pixel changed visibly."""
    apart_HW = np.abs(pixels_HW3.astype(np.int16) - image_HW3).max(2)
    changed_HW = (apart_HW > VISIBLE) & change_HW
    return [
        index
        for index, mask_HW in enumerate(before.masks_NHW)
        if (mask_HW & changed_HW).sum() < TOUCHED * mask_HW.sum()
    ]


def _one_part(object_HW: np.ndarray, before: Parts) -> int | None:
    """The one part that an edited object is; None for a piece of one, several, something else."""
    covered = [(mask_HW & object_HW).sum() for mask_HW in before.masks_NHW]
    taken = [
        index
        for index, mask_HW in enumerate(before.masks_NHW)
        if covered[index] >= TAKEN * mask_HW.sum()
    ]
    if len(taken) != 1 or covered[taken[0]] < ITSELF * object_HW.sum():
        return None
    return taken[0]


def _placed(
    edit: Edit,
    masks: Sequence[np.ndarray],
    proposals: ObjectProposals,
    found: Parts,
    first: int,
) -> list[np.ndarray]:
    """Where the edit lays objects down, as masks; `found[first:]` are the parts found anew.

    Of a kind whose new object has an outline that this image does not know (a donor's, a prompt's)
    the part found nearest to the old place stands for it.
    """
    known = "prompt" not in edit.parameters and "donor" not in edit.parameters
    placed = placed_masks(edit, masks, proposals) if known else None
    if placed is not None:
        return placed
    ys, xs = np.nonzero(masks[0])
    here = np.array([xs.mean(), ys.mean()])
    fresh = range(first, len(found))
    reach = np.sqrt(masks[0].sum())
    near = [k for k in fresh if np.linalg.norm(found.looks[k].centre - here) <= reach]
    near.sort(key=lambda k: float(np.linalg.norm(found.looks[k].centre - here)))
    return [found.masks_NHW[k] for k in near[:1]]


def _subset(parts: Parts, indices: Sequence[int]) -> Parts:
    return Parts(
        parts.masks_NHW[list(indices)], tuple(parts.looks[k] for k in indices), parts.frame
    )
