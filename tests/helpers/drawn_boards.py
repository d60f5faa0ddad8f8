"""A version of drawn boards to review, made in a second and without models."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import toy_rules as toy

from pipeline.dataset.version import Version
from pipeline.dataset.version_writer import VersionHeader
from pipeline.gate.settings import GateSettings
from pipeline.generation.publish import publish
from pipeline.records import (
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    Verdict,
)

KINDS = ("missing", "wrong_colour", "extra", "control_noop")


def boards(store: Path, images: int = 8, category: str = "board") -> Version:
    """So many boards with four samples each; every fourth board is held out."""
    head = VersionHeader(
        settings={"gate": GateSettings().model_dump(mode="json")},
        licence="Apache-2.0",
        plan_digest=f"{images:064x}",
    )
    return publish(store, category, _results(images), (), head)


def _results(images: int) -> Iterator[ImageResult]:
    for number in range(images):
        board, rng = toy.board(number), np.random.default_rng(number)
        masks = toy.ToyFinder()(board).masks_NHW
        yield ImageResult(
            name=f"{'validation' if number % 4 == 3 else 'train'}/good/{number:03d}.png",
            digest=f"{number:064x}",
            split="validation" if number % 4 == 3 else "train",
            pixels_HW3=board,
            foreground=ForegroundMask(np.ones(board.shape[:2], np.bool_)),
            proposals=ObjectProposals(masks, np.ones(len(masks), np.float32), masks.any(0)),
            attempts=tuple(_attempt(turn, kind, board, rng) for turn, kind in enumerate(KINDS)),
        )


def _attempt(turn: int, kind: str, board: np.ndarray, rng: np.random.Generator) -> Attempt:
    edited = board.copy()
    x, y = toy.LEFT[rng.integers(3)]
    if kind == "missing":
        toy.wipe(edited, x, y)
    elif kind == "wrong_colour":
        toy.disc(edited, x, y, toy.GREEN, r=11)
    elif kind == "extra":
        toy.disc(edited, 62, int(rng.integers(30, 100)))
    else:
        edited[y - 4 : y + 4, x - 4 : x + 4] += 1
    change = (edited != board).any(2)
    # Some lie near the limits of the gate, so that there is an order of review.
    scores = {"seam_ratio": float(rng.uniform(0.5, 2)), "delta_e": float(rng.uniform(4, 40))}
    sample = Sample(Edit(kind, (0,), {}, turn), edited, change, change)
    return Attempt(turn, 0, kind, turn, sample, Verdict(True, "", scores))
