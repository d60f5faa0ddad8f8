"""Judge samples by a rule book: does a sample break exactly the rules that its edit should break?

    judge = Judge(load(path), finder(models))
    verdict = judge.judge(edit, sample, image_HW3, proposals, verdict)

Edits are not planned by rules (docs/decisions/0017). The rules that an edit *should* break follow
from the parts of the source, removed and pasted as the edit says. The rules that it *did* break
follow from parts found again in the edited pixels. A sample is accepted when both are the same and
not empty; a control is accepted when nothing is broken.

Where no pixel changed, the parts of the source are reused, so a segmentation error there is on both
sides and cancels out. A rule that the source itself breaks is blind for this image: it counts
neither as intended nor as broken.

Shapes: H, W image; 3 colour (RGB, uint8); N parts.
"""

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.edits.registry import placed_masks
from pipeline.kinds import kind_of
from pipeline.records import Edit, ObjectProposals, Sample, Verdict
from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.check import broken_rules, recognised_in
from pipeline.rulebook.parts import Parts
from pipeline.rulebook.second_look import Finder, parts_of

# Rejection reasons of this judge; part of the dataset format.
NO_RULE = "breaks_no_rule"
OTHER_RULES = "breaks_other_rules"
UNSEEN = "breaks_rule_unseen"
CONTROL = "breaks_a_rule"

# Difference in grey levels above which a pixel counts as changed.
VISIBLE = 8
# Share of a part's pixels that must have changed for it to be segmented again.
TOUCHED = 0.2
# Share of a part that an edited object must cover to be identified with it.
TAKEN = 0.6
# Share of an edited object that this part must cover in turn.
ITSELF = 0.5


class Judge:
    """A rule book with a part finder; caches the parts of each thread's last source image."""

    def __init__(self, book: RuleBook, find_parts: Finder) -> None:
        """`find_parts(image_HW3) -> Parts`, with a method `describe` for known masks."""
        self.book, self.find_parts = book, find_parts
        # Workers of a run share a judge, each with an image of its own.
        self._last = threading.local()

    def judge(
        self,
        edit: Edit,
        sample: Sample,
        image_HW3: np.ndarray,
        proposals: ObjectProposals,
        verdict: Verdict,
    ) -> Verdict:
        """The gate's verdict extended by what the rules say; rejected when they do not agree.

        `image_HW3` is the source of the sample, `proposals` those that the edit refers to.
        """
        # What the edit did break.
        before = self._parts_of(image_HW3)
        kept, found = self._found(image_HW3, sample.pixels_HW3, sample.change_HW)
        blind = set(self._broken(before))
        actual = {rule: words for rule, words in self._broken(found).items() if rule not in blind}
        # What it should break; controls should break nothing.
        intended: list[str] = []
        if not edit.is_control:
            expected = self._expected(edit, sample, proposals, before, kept, found)
            if expected is not None:
                intended = [rule for rule in self._broken(expected) if rule not in blind]
        scores = {**verdict.scores, "rules_broken": float(len(actual)), "rules_blind": len(blind)}
        reason = _reason(edit.is_control, intended, list(actual))
        return replace(
            verdict,
            accepted=not reason,
            reason=reason,
            scores=scores,
            rule="+".join(intended),
            broken=tuple(actual),
            findings=tuple(f"{rule}: {words}" for rule, words in actual.items()),
        )

    def broken_by(
        self, image_HW3: np.ndarray, pixels_HW3: np.ndarray, change_HW: np.ndarray
    ) -> list[str]:
        """Rules that the edited image breaks and its source does not."""
        blind = set(self._broken(self._parts_of(image_HW3)))
        found = self._found(image_HW3, pixels_HW3, change_HW)[1]
        return [rule for rule in self._broken(found) if rule not in blind]

    def _parts_of(self, image_HW3: np.ndarray) -> Parts:
        """Parts of a source image, cached: its samples come one after another."""
        # By content, because callers may load the same image again.
        key = image_HW3.tobytes()
        if getattr(self._last, "key", None) != key:
            self._last.parts = parts_of(self.book, self.find_parts, image_HW3)
            self._last.key = key
        return self._last.parts

    def _broken(self, parts: Parts) -> dict[str, str]:
        return broken_rules(self.book, recognised_in(self.book, parts))

    def _found(
        self, image_HW3: np.ndarray, pixels_HW3: np.ndarray, change_HW: np.ndarray
    ) -> tuple[Parts, Parts]:
        """The untouched parts of the source, and all parts of the edited image.

        The latter are the untouched ones followed by those that were found again in the change
        mask. The product has not moved, so the source's frame is kept.
        """
        before = self._parts_of(image_HW3)
        kept = _subset(before, _untouched(before, image_HW3, pixels_HW3, change_HW))
        after = parts_of(self.book, self.find_parts, pixels_HW3)
        taken_HW = kept.masks_NHW.any(0)
        # Parts in the change mask that are not one of the kept ones.
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
        """The parts that should be there after the edit; None if an object is no single part."""
        gone: set[int] = set()
        placed: list[np.ndarray] = []
        for part in edit.parts:
            masks = [proposals.masks_NHW[target] for target in part.targets]
            under = [_one_part(mask_HW, before) for mask_HW in masks]
            # An object that is no single part says nothing about the rules of any part.
            if any(index is None for index in under):
                return None
            if not kind_of(part.kind).adds:
                gone |= {index for index in under if index is not None}
            placed += _placed(part, masks, proposals, found, len(kept))
        staying = [index for index in range(len(before)) if index not in gone]
        return self._with(_subset(before, staying), placed, sample.pixels_HW3, before)

    def _with(
        self, kept: Parts, masks: Sequence[np.ndarray], pixels_HW3: np.ndarray, before: Parts
    ) -> Parts:
        """Kept parts plus further masks, which are described on the edited pixels."""
        masks = [mask_HW for mask_HW in masks if mask_HW.any()]
        if not masks:
            return kept
        fresh_NHW = np.stack(masks)
        descriptors = self.find_parts.describe(pixels_HW3, fresh_NHW, before.frame)
        return Parts(
            np.concatenate([kept.masks_NHW, fresh_NHW]),
            kept.descriptors + tuple(descriptors),
            before.frame,
        )


def _reason(control: bool, intended: Sequence[str], actual: Sequence[str]) -> str:
    """The rejection reason, empty when the sample is accepted."""
    if control:
        return CONTROL if actual else ""
    # An anomaly that breaks no rule cannot be called one by this book.
    if not intended:
        return NO_RULE
    if set(intended) - set(actual):
        return UNSEEN
    return OTHER_RULES if set(actual) - set(intended) else ""


def _untouched(
    before: Parts, image_HW3: np.ndarray, pixels_HW3: np.ndarray, change_HW: np.ndarray
) -> list[int]:
    """Indices of the source's parts of which hardly any pixel changed visibly."""
    # int16, because uint8 differences would wrap around.
    difference_HW = np.abs(pixels_HW3.astype(np.int16) - image_HW3).max(2)
    changed_HW = (difference_HW > VISIBLE) & change_HW
    return [
        index
        for index, mask_HW in enumerate(before.masks_NHW)
        if (mask_HW & changed_HW).sum() < TOUCHED * mask_HW.sum()
    ]


def _one_part(object_HW: np.ndarray, before: Parts) -> int | None:
    """The index of the part that an edited object is; None for a fragment, several parts, none."""
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
    """Masks of the objects that the edit pastes; `found[first:]` are the parts found again.

    If the outline of the new object is unknown in this image (a donor's, or a prompt's), the part
    found nearest to the old place represents it.
    """
    known = "prompt" not in edit.parameters and "donor" not in edit.parameters
    placed = placed_masks(edit, masks, proposals) if known else None
    if placed is not None:
        return placed
    ys, xs = np.nonzero(masks[0])
    here = np.array([xs.mean(), ys.mean()])
    fresh = range(first, len(found))
    # Nearest within one object size of the old centre.
    reach = np.sqrt(masks[0].sum())
    near = [k for k in fresh if np.linalg.norm(found.descriptors[k].centre - here) <= reach]
    near.sort(key=lambda k: float(np.linalg.norm(found.descriptors[k].centre - here)))
    return [found.masks_NHW[k] for k in near[:1]]


def _subset(parts: Parts, indices: Sequence[int]) -> Parts:
    return Parts(
        parts.masks_NHW[list(indices)], tuple(parts.descriptors[k] for k in indices), parts.frame
    )
