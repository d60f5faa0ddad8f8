"""`make demo`: every category of the example manifest is made and checked, detectors learn one.

    python -m flows.demo [MANIFEST]

Nothing here is special to the demo: it calls what `anomalysmith generate`, `verify`, `train` and
`evaluate` call. What it tells is in `demo_story.py`.
"""

import sys
import time
from pathlib import Path

from flows.commands.console import BROKEN, DONE, SKIPPED, complain, worst
from flows.commands.progress_bars import ImageBar
from flows.demo.text import greeting, learning, made, next_steps
from flows.jobs.category_options import MANIFEST, Choices, settings_of
from flows.jobs.generate import GenerateReport, generate
from pipeline.errors import AnomalysmithError


def main(manifest: Path = MANIFEST) -> int:
    """Run the demo; the exit code."""
    started = time.perf_counter()
    try:
        categories = settings_of(Choices(manifest=manifest))
    except AnomalysmithError as error:
        complain(error)
        return error.exit_code
    print(greeting([settings.name for settings in categories]), flush=True)
    reports: list[GenerateReport] = []
    codes: list[int] = []
    for settings in categories:
        try:
            report = generate(settings, watcher=ImageBar())
            codes.append(_checked(report))
            reports.append(report)
        except AnomalysmithError as error:
            complain(f"{settings.name}: {error}")
            codes.append(error.exit_code)
    if reports:
        print(made(reports, all(code != BROKEN for code in codes)), flush=True)
        codes += _detectors(reports)
        print(next_steps(reports[0], time.perf_counter() - started))
    return worst(codes)


def _checked(report: GenerateReport) -> int:
    """Verify a version as a stranger would."""
    from pipeline.dataset.verify import verify

    found = verify(report.version_dir)
    for problem in found.problems:
        complain(problem)
    if not found.ok:
        return BROKEN
    if not report.accepted:  # the example scenes are ours: none accepted means something is wrong
        complain(f"{report.category}: the gate accepted no sample of {report.images} images")
        return SKIPPED
    return DONE


def _detectors(reports: list[GenerateReport]) -> list[int]:
    """Train and measure on one product, and tell; exit codes."""
    from flows.demo.detectors import learn, product_of

    product = product_of(reports)
    if product is None:
        return []
    learnt, codes = learn(product)
    print(learning(product.category, learnt), flush=True)
    return codes


if __name__ == "__main__":
    try:
        sys.exit(main(*map(Path, sys.argv[1:2])))
    except KeyboardInterrupt:
        print("\ninterrupted: what is finished is kept, `make demo` goes on", file=sys.stderr)
        sys.exit(130)
