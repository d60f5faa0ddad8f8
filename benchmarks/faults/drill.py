"""Shared by the drills of `benchmarks.faults`: source images, runs of the program, outcomes."""

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

from flows.environment import PROGRAM

ROOT = Path(__file__).resolve().parents[2]
# Options that make a run short: no inpainting network, small images.
FAST = ("--inpaint", "telea", "--image-size", "128", "--per-image", "2", "--workers", "1")
# Seconds after which a drill that does not end counts as lost.
PATIENCE = 600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a drill: `survived` when nothing but time was lost; `lost` names what was."""

    name: str
    survived: bool
    happened: str
    lost: str = "nothing"


def draw_images(folder: Path, count: int = 4) -> Path:
    """Write images of dark round parts on a bright, slightly noisy background, 128 px."""
    folder.mkdir(parents=True, exist_ok=True)
    yy, xx = np.mgrid[:128, :128]
    for number in range(count):
        rng = np.random.default_rng(number)
        image_HW3 = 205 + rng.normal(0, 3, (128, 128, 3))
        for cx, cy in ((38, 40), (90, 42), (64, 90)):
            dx, dy, radius = *rng.integers(-4, 5, 2), rng.integers(11, 16)
            # Three discs with random offset, radius and colour.
            image_HW3[np.hypot(xx - cx - dx, yy - cy - dy) < radius] = rng.integers(20, 110, 3)
        Image.fromarray(image_HW3.clip(0, 255).astype(np.uint8)).save(folder / f"{number:03}.png")
    return folder


def environment(**more: str) -> dict[str, str]:
    """This process's environment variables, without telemetry and with one thread."""
    return os.environ | PROGRAM | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | more


def command_of(images: Path, store: Path) -> list[str]:
    """The command that every drill disturbs."""
    # The command line that a user would type.
    source = ["generate", "--source", f"folder:{images}", "--store", str(store)]
    return [sys.executable, "-m", "flows.cli", *source, *FAST, "--json"]


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run of the program."""

    code: int
    answer: Mapping[str, Any]
    stderr: str

    @property
    def digest(self) -> str:
        return str(self.answer.get("digest", ""))

    @property
    def message(self) -> str:
        """The last line of standard error that the program itself wrote."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("anomalysmith: ")]
        return lines[-1].removeprefix("anomalysmith: ") if lines else ""


def generate(images: Path, store: Path, root: Path = ROOT, **more: str) -> FinishedRun:
    """One undisturbed run; `root` is the checkout that it runs from."""
    variables = environment(**more) | {"PYTHONPATH": str(root)}
    run = subprocess.run(
        command_of(images, store), cwd=root, env=variables, capture_output=True, text=True,
        timeout=PATIENCE, check=False,
    )  # fmt: skip
    # The last line of standard output is the JSON answer of `--json`.
    lines = run.stdout.strip().splitlines()
    answer = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return FinishedRun(run.returncode, answer, run.stderr)


@contextmanager
def process(command: list[str], log: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the background and kill it when the block ends; its output goes to `log`."""
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment(**more), stdout=file, stderr=file
        )
        try:
            yield child
        finally:
            # Killed only when it is still running.
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)
            # Always reap it, so that no zombie is left.
            child.wait()


def wait_for(ready: Callable[[], bool], seconds: float = PATIENCE, pause: float = 0.05) -> bool:
    """Poll `ready`: True as soon as it returns True, False after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return True
        time.sleep(pause)
    return False


def begun(store: Path) -> Callable[[], bool]:
    """A function that tells whether the first image of a run is in the cache: it is at work."""
    return lambda: any((store / ".cache" / "analysis").rglob("*.npz"))
