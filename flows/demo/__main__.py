"""`make demo`: generate and verify every category of the example manifest, compare detectors.

    python -m flows.demo [MANIFEST]

The demo calls the same functions as `anomalysmith generate`, `verify` and `compare`. Its
text is in `flows/demo/text.py`.
"""

from flows import environment as _environment  # noqa: F401  isort: skip  first: it switches telemetry off

import sys
import time
from pathlib import Path

from flows.commands.console import DONE, INTEGRITY_ERROR, SKIPPED, print_error, worst_code
from flows.commands.progress_bars import ImageBar
from flows.demo.text import comparison, datasets, greeting, next_steps
from flows.jobs.category_options import MANIFEST, Choices, settings_of
from flows.jobs.generate import GenerateReport, generate
from pipeline.errors import AnomalysmithError


def main(manifest: Path = MANIFEST) -> int:
    """Run the demo; returns the worst exit code. A category that fails does not stop the others."""
    started = time.perf_counter()
    try:
        # A manifest that is not valid ends the demo before anything is generated.
        categories = settings_of(Choices(manifest=manifest))
    except AnomalysmithError as error:
        print_error(error)
        return error.exit_code
    print(greeting([settings.name for settings in categories]), flush=True)
    # First the datasets, one product after another.
    reports: list[GenerateReport] = []
    codes: list[int] = []
    for settings in categories:
        try:
            report = generate(settings, watcher=ImageBar())
            codes.append(_checked(report))
            reports.append(report)
        except AnomalysmithError as error:
            print_error(f"{settings.name}: {error}")
            codes.append(error.exit_code)
    if reports:
        print(datasets(reports, all(code != INTEGRITY_ERROR for code in codes)), flush=True)
        # Then the detectors, and what to do next.
        codes += _detectors(reports)
        print(next_steps(reports[0], time.perf_counter() - started))
    return worst_code(codes)


def _checked(report: GenerateReport) -> int:
    """Verify a version as `anomalysmith verify` does; returns an exit code."""
    from pipeline.dataset.verify import verify

    found = verify(report.version_dir)
    for problem in found.problems:
        print_error(problem)
    # Damaged data is worse than missing samples.
    if not found.ok:
        return INTEGRITY_ERROR
    # Every example scene yields accepted samples, so none means that something is wrong.
    if not report.accepted:
        print_error(f"{report.category}: the gate accepted no sample of {report.images} images")
        return SKIPPED
    return DONE


def _detectors(reports: list[GenerateReport]) -> list[int]:
    """Compare detectors on one product and print the result; returns exit codes."""
    # Imported only now: PyTorch takes seconds to load.
    from flows.demo.detectors import compare_detectors, product_with_test

    product = product_with_test(reports)
    if product is None:
        return []
    content, code = compare_detectors(product)
    if content is not None:
        print(comparison(product.category, content), flush=True)
    return [code]


if __name__ == "__main__":
    try:
        sys.exit(main(*map(Path, sys.argv[1:2])))
    except KeyboardInterrupt:
        print("\ninterrupted: finished work is kept, `make demo` continues", file=sys.stderr)
        sys.exit(130)
