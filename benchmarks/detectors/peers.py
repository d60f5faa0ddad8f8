"""EfficientAD and LA-EAD against anomalib's EfficientAD, which runs in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks.detectors.rows import Timing, left_out
from benchmarks.detectors.steps import TimedDetector, in_turn
from detectors.networks import winograd
from detectors.training.precision import resolve

# bfloat16 is faster only where the processor multiplies it in tiles.
AMX = torch.cpu._is_amx_tile_supported()
# Limits of a training step, as a share of anomalib's EfficientAD-M in float32. With direct
# convolutions LA-EAD's step needs 0.95 of that step's multiplications.
CLAIMED: Mapping[str, Mapping[str, float | None]] = {
    "efficientad": {"fp32": 0.70, "bf16": 0.25},
    "laead": {"fp32": 0.85, "bf16": None},
}
# LA-EAD's inference as a share of our EfficientAD-M's; 6.1 ms against 4.5 ms are published for a
# GPU. Direct convolutions need 1.58 times the multiplications.
LAEAD_INFERENCE = 1.40


def against_anomalib(peers: Path, quick: bool, threads: int) -> list[Timing]:
    """Training steps without penalty and with cached teacher features, and inference; batch 1."""
    kind, letter = ("small", "S") if quick else ("medium", "M")
    # The same network size as anomalib's.
    changes = {"pdn": kind, "teacher": f"efficientad-{letter.lower()}"}
    python = peers / "bin" / "python"
    if not python.is_file():
        left_out(f"anomalib, because there is no {python}; `make test-peers` builds it")
        return []
    # Each of our detectors in both precisions; anomalib in float32, its default.
    ours = [
        (name, precision)
        for name in ("efficientad", "laead")
        for precision in ("fp32", "bf16")
    ]  # fmt: skip
    rows = []
    # The peer stays alive for all calls, so that its import is not measured.
    with anomalib(python, kind, threads) as theirs:
        calls = {pair: TimedDetector(pair[0], changes, resolve("cpu", pair[1])) for pair in ours}
        baseline = f"anomalib 2.7 EfficientAD-{letter}, fp32"
        steps = in_turn({"peer": lambda: theirs("step")} | {p: c.step for p, c in calls.items()})
        scores = in_turn(
            {"peer": lambda: theirs("infer")}
            | {pair: call.infer for pair, call in calls.items()}
            | {"direct": lambda: direct(calls["efficientad", "fp32"].infer)}
        )
    for name, precision in ours:
        # Without AMX the bfloat16 rows are for information.
        faster = precision == "fp32" or AMX
        rows.append(Timing(
            f"{name} {letter}, training step", precision, 1, steps[name, precision], "s",
            f"{baseline}, with penalty", steps["peer"],
            CLAIMED[name][precision] if faster and not quick else None,
        ))  # fmt: skip
    for name, precision in ours:
        # Inference is claimed in bfloat16 only, where AMX is present.
        mine = scores[name, precision]
        claimed = precision == "bf16" and AMX and not quick and name == "efficientad"
        rows.append(Timing(f"{name} {letter}, inference", precision, 1, mine, "s", baseline,
                           scores["peer"], 0.35 if claimed else None))  # fmt: skip
    # The second baseline is what EfficientAD-M took before `detectors.networks.winograd`.
    against = [
        (precision, "our efficientad's", scores["efficientad", precision])
        for precision in ("fp32", "bf16")
    ]
    against.append(("fp32", "our efficientad's, direct convolutions", scores["direct"]))
    return rows + [
        Timing("laead, inference", precision, 1, scores["laead", precision], "s",
               whose, seconds, None if quick else LAEAD_INFERENCE)
        for precision, whose, seconds in against
    ]  # fmt: skip


def direct(call: Callable[[], float]) -> float:
    """The seconds of a call with PyTorch's own convolutions."""
    least = winograd.LEAST_CHANNELS
    winograd.LEAST_CHANNELS = sys.maxsize
    try:
        return call()
    finally:
        winograd.LEAST_CHANNELS = least


@contextmanager
def anomalib(python: Path, kind: str, threads: int) -> Iterator[Callable[[str], float]]:
    """Start the peer; yields a function that runs its `step` or `infer` once: its seconds."""
    peer = subprocess.Popen(
        [python, "-m", "benchmarks.anomalib_peer", "--model", kind, "--threads", str(threads)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    requests, answers = peer.stdin, peer.stdout
    assert requests is not None
    assert answers is not None

    def line_of(word: str) -> str:
        for line in answers:
            # Libraries may print to standard output as well: skip such lines.
            if line.startswith(word) or (not word and line[:1].isdigit()):
                return line
        raise RuntimeError(f"anomalib's process ended with code {peer.wait()}")

    def timed(word: str) -> float:
        print(word, file=requests, flush=True)
        return float(line_of(""))

    try:
        line_of("ready")
        yield timed
    finally:
        # End of input ends the peer.
        requests.close()
        peer.wait()
