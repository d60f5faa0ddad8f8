"""What the drills of `benchmarks.faults` share: photographs, runs of the program, an outcome."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
FAST = ("--inpaint", "telea", "--image-size", "128", "--per-image", "2", "--workers", "1")
PATIENCE = 600.0
"""Seconds after which a drill that hangs counts as lost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one drill ended: `survived` when nothing but time was lost; `lost` says what was."""

    name: str
    survived: bool
    happened: str
    lost: str = "nothing"


def draw_photographs(folder: Path, count: int = 4) -> Path:
    """Dark round parts on a bright, slightly noisy ground, 128 px."""
    folder.mkdir(parents=True, exist_ok=True)
    yy, xx = np.mgrid[:128, :128]
    for number in range(count):
        rng = np.random.default_rng(number)
        image_HW3 = 205 + rng.normal(0, 3, (128, 128, 3))
        for cx, cy in ((38, 40), (90, 42), (64, 90)):
            dx, dy, radius = *rng.integers(-4, 5, 2), rng.integers(11, 16)
            image_HW3[np.hypot(xx - cx - dx, yy - cy - dy) < radius] = rng.integers(20, 110, 3)
        Image.fromarray(image_HW3.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def environment(**more: str) -> dict[str, str]:
    """This process's own, quiet and with one thread."""
    plain = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_DISABLE_JIT": "1"}
    quiet = {"DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return os.environ | plain | quiet | more


def words_of(photos: Path, store: Path) -> list[str]:
    """The command that every drill disturbs."""
    source = ["generate", "--source", f"folder:{photos}", "--store", str(store)]
    return [sys.executable, "-m", "flows.cli", *source, *FAST, "--json"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished run of the program."""

    code: int
    answer: Mapping[str, Any]
    said: str

    @property
    def digest(self) -> str:
        return str(self.answer.get("digest", ""))

    @property
    def message(self) -> str:
        """The last line of standard error that the program itself wrote."""
        lines = [line for line in self.said.splitlines() if line.startswith("anomalysmith: ")]
        return lines[-1].removeprefix("anomalysmith: ") if lines else ""


def generate(photos: Path, store: Path, root: Path = ROOT, **more: str) -> Ended:
    """One undisturbed run; `root` is the checkout that it runs from."""
    variables = environment(**more) | {"PYTHONPATH": str(root)}
    run = subprocess.run(
        words_of(photos, store), cwd=root, env=variables, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    lines = run.stdout.strip().splitlines()
    answer = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return Ended(run.returncode, answer, run.stderr)


@contextmanager
def process(words: list[str], log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program beside this one, ended when the block ends; what it says goes to `log`."""
    with log.open("ab") as file:
        child = subprocess.Popen(words, cwd=ROOT, env=environment(**more), stdout=file, stderr=file)
        try:
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            child.wait()


def wait_for(ready: Callable[[], bool], seconds: float = PATIENCE, pause: float = 0.05) -> bool:
    """True as soon as `ready` says so, False when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return True
        time.sleep(pause)
    return False


def begun(store: Path) -> Callable[[], bool]:
    """Whether the first image of a run lies in the cache: it is in the middle of its work."""
    return lambda: any((store / ".cache" / "analysis").rglob("*.npz"))
