"""Generate on composed scenes and count, per kind, how many accepted samples are anomalies.

    python -m benchmarks.real_parts.anomalies --scenes 32

The scene's own rule decides (`truth.py`).
"""

import argparse
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.command import command
from benchmarks.real_parts.folder import write_folder
from benchmarks.real_parts.scenes import ARRANGEMENTS
from benchmarks.real_parts.truth import is_anomaly
from flows.jobs.generate import generate_missing, make_plan
from flows.jobs.progress import Watcher
from flows.jobs.stopwatch import Stopwatch
from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.generation.asked import result_of
from pipeline.kinds import is_control
from pipeline.records import Attempt
from pipeline.utils.text_table import table


@dataclass(slots=True)
class Tally:
    """Accepted samples by kind, those of them that are anomalies, and rejections by reason."""

    images: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    anomalies: Counter[str] = field(default_factory=Counter)
    rejected: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    # `arrangement/image/kind` and the edit of samples that are none.
    wrong: list[tuple[str, str, Attempt]] = field(default_factory=list)
    seconds: float = 0.0


def tally(arrangement: str, scenes: int, photographs: Path, per_image: int, root: Path) -> Tally:
    """Generate with defaults on `scenes` composed scenes and compare with the truth."""
    truth = {f"{n:04}.png": scene for n, scene in enumerate(
        write_folder(root, arrangement, scenes, photographs)
    )}  # fmt: skip
    settings = resolve(manifest_for_source("folder", root / "images"), "images")
    settings = settings.model_copy(update={
        "store": root / "store",
        "edits": settings.edits.model_copy(update={"per_image": per_image}),
    })  # fmt: skip
    started = time.perf_counter()
    plan = make_plan(settings, None, Watcher())
    generate_missing(plan, Stopwatch(plan, 1), Watcher())
    found = Tally(images=len(plan.images), seconds=time.perf_counter() - started)
    for image in plan.images:
        result = result_of(plan, image)
        assert result is not None
        scene = truth[image.name.rsplit("/", 1)[-1]]
        for attempt in result.attempts:
            if is_control(attempt.kind):
                continue
            if attempt.sample is None or not attempt.verdict.accepted:
                found.rejected[attempt.kind][attempt.verdict.reason] += 1
                continue
            found.accepted[attempt.kind] += 1
            if is_anomaly(attempt.sample.edit, scene, result.proposals, truth):
                found.anomalies[attempt.kind] += 1
            else:
                found.wrong.append((arrangement, image.name, attempt))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--per-image", type=int, default=6)
    parser.add_argument("--photographs", type=Path, default=Path("../shared/data/mvtec_ad"))
    parser.add_argument("--arrangement", choices=ARRANGEMENTS, nargs="*", default=ARRANGEMENTS)
    given = parser.parse_args()
    rows = []
    for arrangement in given.arrangement:
        with tempfile.TemporaryDirectory() as folder:
            found = tally(
                arrangement, given.scenes, given.photographs, given.per_image, Path(folder)
            )
        for kind, count in sorted(found.accepted.items()):
            right = found.anomalies[kind]
            rows.append((arrangement, kind, count, right, f"{right / count:.3f}"))
        accepted, right = found.accepted.total(), found.anomalies.total()
        rows.append((
            arrangement, f"all ({accepted / found.images:.1f} per image, "
            f"{found.seconds / found.images:.1f} s)", accepted, right,
            f"{right / max(1, accepted):.3f}",
        ))  # fmt: skip
        for kind, reasons in found.rejected.items():
            print(arrangement, kind, dict(reasons.most_common(5)))
        for where, name, attempt in found.wrong[:8]:
            edit = attempt.sample.edit if attempt.sample else None
            print(
                "no anomaly:",
                where,
                name,
                attempt.kind,
                edit and (edit.targets, dict(edit.parameters)),
            )
    print(table(("scenes", "kind", "accepted", "anomalies", "share"), rows))


if __name__ == "__main__":
    command("real_parts.anomalies", main)
