"""Rows without a peer: GLCF beside LA-EAD and the `cpu` profile on the CPU, LA-EAD on a GPU."""

import torch

from benchmarks.detectors.rows import Timing, left_out
from benchmarks.detectors.steps import PAPER_STEPS, TimedDetector, in_turn
from detectors.registry import configure
from detectors.training.precision import resolve


def glcf_rows(quick: bool) -> list[Timing]:
    """GLCF's step at its batch of 8 and its inference at 1, beside LA-EAD's; for information."""
    small = configure("glcf", "tiny").settings.model_dump() if quick else {}
    compute = resolve("cpu", "fp32")
    laead = TimedDetector(
        "laead", {"pdn": "small", "teacher": "efficientad-s"} if quick else {}, compute
    )
    # GLCF trains with batches of 8; times are per image.
    batch, single = (TimedDetector("glcf", small, compute, size) for size in (8, 1))
    named = {"step": (batch.step, laead.step, 8), "inference": (single.infer, laead.infer, 1)}
    rows = []
    for what, (ours, theirs, size) in named.items():
        times = in_turn({"ours": ours, "laead": theirs})
        rows.append(Timing(f"glcf, {what} per image", "fp32", size, times["ours"] / size, "s",
                           "our laead's, batch 1", times["laead"]))  # fmt: skip
    return rows


def scoring_rows() -> list[Timing]:
    """200 images scored one by one with the `cpu` profile, whose aim is 20 s of a core."""
    rows = []
    for name in ("semrec", "glcf"):
        for precision in ("fp32", "bf16"):
            ours = TimedDetector(name, {}, resolve("cpu", precision), profile="cpu")
            seconds = 200 * in_turn({"infer": ours.infer}, repeats=5)["infer"]
            rows.append(
                Timing(f"{name} cpu, 200 images", precision, 1, seconds, "s", "aim", 20.0, 1.0)
            )
    return rows


def gpu_rows() -> list[Timing]:
    """LA-EAD-M at batch 1: latency, and how long the paper's training takes, from a step's time."""
    if not torch.cuda.is_available():
        left_out("latency on a GPU, because there is none here")
        return []
    rows = []
    for precision, latency, minutes in (("bf16", 1.5, 6.0), ("tf32", 2.5, 10.0)):
        ours = TimedDetector("laead", {}, resolve("cuda", precision))
        # A step takes milliseconds on a GPU, so many repeats cost little.
        times = in_turn({"step": ours.step, "infer": ours.infer}, repeats=100)
        # The aim as a limit: share 1.
        rows += [
            Timing("laead M, inference", precision, 1, 1e3 * times["infer"], "ms",
                   "aim", latency, 1.0),
            Timing("laead M, 70 000 steps, projected", precision, 1,
                   PAPER_STEPS * times["step"] / 60, "min", "aim", minutes, 1.0),
        ]  # fmt: skip
    return rows
