"""`make demo`: every category of the example manifest, made, checked, and told in plain words.

    python -m flows.demo [MANIFEST]

Nothing here is special to the demo: it calls what `anomalysmith generate` and `verify` call.
"""

import sys
import time
from pathlib import Path

from flows.choices import MANIFEST, Choices, settings_of
from flows.console import BROKEN, DONE, SKIPPED, complain, table, worst
from flows.local import GenerateReport, generate
from flows.progress import Bar
from pipeline.errors import AnomalysmithError

KINDS = {
    "missing": "an object taken away",
    "extra": "an object too many",
    "misplaced": "an object in another place",
    "swapped": "two objects exchanged",
    "control_noop": "repainted without a change of meaning, labelled normal",
}


def main(manifest: Path = MANIFEST) -> int:
    """Run the demo; the exit code."""
    started = time.perf_counter()
    try:
        categories = settings_of(Choices(manifest=manifest))
    except AnomalysmithError as error:
        complain(error)
        return error.exit_code
    names = ", ".join(settings.name for settings in categories)
    print(
        f"Forging logical anomalies for {len(categories)} products: {names}.\n"
        "U²-Net finds the parts, SAM proposes objects, each edit takes away, adds, moves or swaps\n"
        "some, LaMa fills the gaps, and a gate refuses what looks wrong.\n",
        flush=True,
    )
    reports: list[GenerateReport] = []
    codes: list[int] = []
    for settings in categories:
        try:
            report = generate(settings, watcher=Bar())
            codes.append(_checked(report))
            reports.append(report)
        except AnomalysmithError as error:
            complain(f"{settings.name}: {error}")
            codes.append(error.exit_code)
    if reports:
        print(_story(reports, time.perf_counter() - started, all(code != BROKEN for code in codes)))
    return worst(codes)


def _checked(report: GenerateReport) -> int:
    """Verify a version as a stranger would."""
    from pipeline.verify import verify

    found = verify(report.version_dir)
    for problem in found.problems:
        complain(problem)
    if not found.ok:
        return BROKEN
    if not report.accepted:  # the example scenes are ours: none accepted means something is wrong
        complain(f"{report.category}: the gate accepted no sample of {report.images} images")
        return SKIPPED
    return DONE


def _story(reports: list[GenerateReport], seconds: float, sound: bool) -> str:
    """What was made, where it is, what to do next."""
    rows = [
        (
            report.category,
            report.images,
            report.accepted,
            sum(report.rejected.values()),
            "published before" if report.cached else f"{report.seconds:.0f} s",
        )
        for report in reports
    ]
    kinds: dict[str, int] = {}
    for report in reports:
        for kind, count in report.by_kind.items():
            kinds[kind] = kinds.get(kind, 0) + count
    first = reports[0]
    lines = [
        "",
        table(("product", "images", "samples", "refused", "time"), rows),
        "",
        "What the samples show:",
        *(f"  {count:4d}  {KINDS.get(kind, kind)} ({kind})" for kind, count in kinds.items()),
        "",
        "Every version was read back and verified." if sound else "A version is BROKEN, see above.",
        f"All of it took {seconds:.0f} s.",
        "",
        "Look at the samples, accepted and refused, in a browser:",
        *(f"  {report.gallery}" for report in reports if report.gallery),
        "",
        "Next:",
        f"  .venv/bin/anomalysmith stats {_short(first.version_dir)}",
        f"  .venv/bin/anomalysmith show {_short(first.version_dir)} 0",
        "  .venv/bin/anomalysmith generate --source folder:PATH/TO/YOUR/GOOD/IMAGES",
    ]
    return "\n".join(lines)


def _short(path: Path) -> Path:
    """Relative to the working folder where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    try:
        sys.exit(main(*map(Path, sys.argv[1:2])))
    except KeyboardInterrupt:
        print("\ninterrupted: finished images are kept, `make demo` goes on", file=sys.stderr)
        sys.exit(130)
