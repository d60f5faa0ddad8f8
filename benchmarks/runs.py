"""One measured run: train a detector on a version with a seed, evaluate it, keep the result.

    result = run(version, configure("laead", "tiny"), seed=0, out=Path("out/results"))
    result["metrics"]["image_auroc"]

A finished run is read again, an interrupted one is resumed. Runs are identified by the digest of
the version, the recipe, the seed and the checkpoint that they start from, not by the code: use
another folder after changing a detector.
"""

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from detectors.evaluation.evaluate import evaluate
from detectors.registry import Recipe
from detectors.training.job import TrainJob
from detectors.training.trainer import train
from pipeline.dataset.version import Version
from pipeline.utils.files import write_atomic
from pipeline.utils.hashing import digest_of

# The keys of result.json: `label`, `detector`, `category`, `licence`, `version`, `seed`,
# `checkpoint`, `steps`, `train_seconds`, `evaluate_seconds`, `validation` (of the training),
# `metrics` (as `anomalysmith evaluate --json` prints them).
Result = dict[str, Any]


def run(
    version: Version,
    recipe: Recipe,
    seed: int,
    out: Path,
    *,
    label: str = "",
    start: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    details: bool = False,
) -> Result:
    """Train and evaluate once, in a folder of its own below `out`.

    `label` names a variant of a detector; `start` is the checkpoint whose weights initialise the
    detector; `details` keeps the score of every test image as well.
    """
    label = label or recipe.name
    parts = {
        "version": version.digest, "detector": recipe.name,
        "settings": recipe.settings.model_dump(mode="json"),
        "schedule": recipe.schedule.model_dump(mode="json"),
        "seed": seed, "start": start.parent.name if start else None,
    }  # fmt: skip
    # The readable parts of the name are for people, the digest tells runs apart.
    home = out / f"{version.category}-{label}-{seed}-{digest_of(parts)[:8]}"
    kept = home / "result.json"
    if kept.is_file():
        return dict(json.loads(kept.read_bytes()))
    # Training resumes by itself when the folder holds a checkpoint of the same run.
    trained = train(TrainJob(
        recipe=recipe, version=version.dir, out=home / "checkpoint", seed=seed, device=device,
        precision=precision, start=start, threads=torch.get_num_threads(),
    ))  # fmt: skip
    started = time.perf_counter()
    report = evaluate(trained.checkpoint, version, None, device=device, precision=precision)
    result: Result = {
        "label": label, "detector": recipe.name, "category": version.category,
        "licence": version.index.get("licence", ""), "version": version.digest, "seed": seed,
        "checkpoint": str(trained.checkpoint), "steps": trained.steps,
        "train_seconds": trained.seconds,
        "evaluate_seconds": time.perf_counter() - started,
        "validation": trained.validation, "metrics": report.to_json(details),
    }  # fmt: skip
    # Written last: its presence marks a finished run.
    write_atomic(kept, json.dumps(_plain(result), indent=1, default=_record).encode())
    return dict(json.loads(kept.read_bytes()))


def found(results: Iterable[Result], path: str) -> list[float]:
    """The numbers at a dotted path such as `metrics.image_auroc`; absent ones are left out."""
    numbers = []
    for result in results:
        value: Any = result
        for part in path.split("."):
            # A metric may be absent at any level, for example without anomalies of a type.
            value = value.get(part) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            numbers.append(float(value))
    return numbers


def spread(numbers: Sequence[float], digits: int = 3) -> str:
    """Mean and standard deviation over seeds as text; a dash when there are no numbers."""
    if not numbers:
        return "–"
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def hardware() -> str:
    """The machine in one line: processor, cores, threads in use, GPU, torch."""
    # Linux names the processor in /proc/cpuinfo; elsewhere only the architecture is known.
    processor = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    # Both decide how fast bfloat16 is on a CPU.
    matrix = "AMX" if torch.cpu._is_amx_tile_supported() else "no AMX"
    bf16 = "AVX-512 BF16" if torch.cpu._is_avx512_bf16_supported() else "no AVX-512 BF16"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{processor} ({bf16}, {matrix}), {os.cpu_count()} cores, {gpu}, threads per "
        f"process: {torch.get_num_threads()}, torch {torch.__version__}"
    )


def _plain(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _record(value: Any) -> Any:
    """Paths and dataclasses as JSON values."""
    return str(value) if isinstance(value, Path) else asdict(value)
