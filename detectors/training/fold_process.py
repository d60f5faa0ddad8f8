"""One fold in a process of its own, which a training starts and listens to.

    python -m detectors.training.fold_process       # its input: a line, see `order`

A fit seeds the generators of its process at every step, so two fits cannot share a process. This
one writes the held-out images that it has judged below the fold's folder, and a line of JSON
whenever there is something to tell. Its input stays open: another byte asks it to save the state
after this step and to end, as a signal does; when the training is gone it ends at once.
"""

import json
import os
import select
import signal
import threading
import traceback
from collections.abc import Mapping
from dataclasses import fields
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

import torch

from detectors.registry import Recipe, entry
from detectors.training.fold import FoldTask, Judged, Part
from detectors.training.held_out import read_held_out, write_held_out
from detectors.training.job import TrainJob
from detectors.training.precision import precision_name, resolve
from detectors.training.progress import Watcher
from detectors.training.run_identity import Inputs, identity, require_same
from pipeline.dataset.version import open_version
from pipeline.errors import AnomalysmithError, IntegrityError
from pipeline.utils.files import named_disk_errors

# Keys of the lines: a remark; steps that are done; class, arguments and transience of an error.
SAID, STEPS, FAILED = "said", "steps", "failed"
# Exit codes: after such an error, and after a stop that was asked for.
FAULT, STOPPED = 2, 130
# Folders in that of the fold: images of its part, those of the validation split; in each of them
# the same in fp32, where that is not the precision anyway.
_OWN, _VALIDATION, _FP32 = "own", "validation", "fp32"
# Seconds between two looks at whether the training is still there.
LOOK = 1.0


# Fields of a `TrainJob` that are paths, or None.
_PATHS = ("version", "out", "teacher", "reviews", "start")


def order(fold: FoldTask, threads: int) -> bytes:
    """What the process reads: a fold, and how many threads its fit has, as a line of JSON."""
    job = fold.job
    options = {one.name: getattr(job, one.name) for one in fields(job) if one.name != "recipe"}
    what = {
        "detector": job.recipe.name,
        "settings": job.recipe.settings.model_dump(mode="json"),
        "schedule": job.recipe.schedule.model_dump(mode="json"),
        "job": options | {name: options[name] and str(options[name]) for name in _PATHS},
        "precision": precision_name(fold.compute), "out": str(fold.out),
        "identity": fold.identity, "kept": fold.kept, "number": fold.number, "count": fold.count,
        "threads": threads,
    }  # fmt: skip
    return json.dumps(what).encode() + b"\n"


def ordered(line: bytes) -> tuple[FoldTask, int]:
    """The fold of an `order`, with what is read again from its files, and the threads.

    UserError when these files have changed since the training began.
    """
    what = json.loads(line)
    known = entry(what["detector"]).paper
    settings = type(known[0]).model_validate(what["settings"])
    schedule = type(known[1]).model_validate(what["schedule"])
    options = what["job"]
    options |= {name: options[name] and Path(options[name]) for name in _PATHS}
    job = TrainJob(recipe=Recipe(what["detector"], settings, schedule), **options)
    inputs = Inputs.of(job)
    version = open_version(job.version)
    now = identity(job, version, inputs)
    began = {key: value for key, value in what["identity"].items() if key in now}
    require_same(job.out, began, now, "a training that began")
    fold = FoldTask(
        job, version, Path(what["out"]), resolve("cpu", what["precision"]), inputs,
        what["identity"], what["kept"], what["number"], what["count"],
    )  # fmt: skip
    return fold, what["threads"]


class Teller(Watcher):
    """Tells the training what happens, and hears from it when to stop."""

    def __init__(self, lines: TextIO) -> None:
        self.lines, self.stop = lines, threading.Event()
        # True when all steps are on the disk.
        self.fitted = False

    def tell(self, key: str, value: Any) -> None:
        self.lines.write(json.dumps({key: value}) + "\n")

    def say(self, text: str) -> None:
        self.tell(SAID, text)

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self.tell(STEPS, done)

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        self.tell(STEPS, done)

    def end(self) -> None:
        self.fitted = True
        if self.stop.is_set():
            raise KeyboardInterrupt

    def wants_to_stop(self) -> bool:
        return self.stop.is_set()

    def ask(self) -> None:
        """Stop after this step; at once while images are judged, which saves nothing."""
        self.stop.set()
        if self.fitted:
            os._exit(STOPPED)


def main() -> int:
    """Fit the fold that the input names; returns the exit code."""
    # What libraries print must not come between the lines.
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # Unbuffered and under another number: worker processes that read images close their `stdin`.
    orders = os.fdopen(os.dup(0), "rb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    parent, told = os.getppid(), orders.readline()
    # The training died, or was stopped, before it had sent everything.
    if not told.endswith(b"\n"):
        return STOPPED
    teller = Teller(lines)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: teller.ask())
    threading.Thread(target=_listen, args=(teller, orders, parent), daemon=True).start()
    try:
        fold, threads = ordered(told)
        torch.set_num_threads(threads)
        part = fold.fit(teller)
        write_part(fold.out, part)
    except AnomalysmithError as error:
        teller.tell(FAILED, [type(error).__name__, [str(error)], error.transient])
        return FAULT
    except OSError as error:
        name = error.filename and str(error.filename)
        teller.tell(FAILED, ["OSError", [error.errno, error.strerror, name], False])
        return FAULT
    except KeyboardInterrupt:
        return STOPPED
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _listen(teller: Teller, orders: FileIO, parent: int) -> None:
    """Hear the training until it is gone: then nobody would read what comes."""
    # Its end of the pipe may outlive it in processes that it has forked.
    while os.getppid() == parent:
        if select.select([orders], [], [], LOOK)[0]:
            if not orders.read(1):
                break
            teller.ask()
    os._exit(STOPPED)


def write_part(folder: Path, part: Part) -> None:
    """Write what a fold has judged; `read_part` gives it back."""
    _write_judged(folder / _OWN, part.judged)
    _write_judged(folder / _VALIDATION, part.validation)


def read_part(folder: Path) -> Part:
    """What `write_part` wrote; IntegrityError when it is not there."""
    return Part(_read_judged(folder / _OWN), _read_judged(folder / _VALIDATION))


def _write_judged(folder: Path, judged: Judged) -> None:
    with named_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_held_out(folder, judged.held)
    if judged.held_fp32 is not None:
        write_held_out(folder / _FP32, judged.held_fp32)


def _read_judged(folder: Path) -> Judged:
    held = read_held_out(folder)
    if held is None:
        raise IntegrityError(f"{folder} holds no judged images; train again")
    return Judged(held, read_held_out(folder / _FP32))


if __name__ == "__main__":
    # Without the end of the interpreter, which would wait for the input that a thread reads.
    os._exit(main())
