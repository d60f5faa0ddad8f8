"""How long a decision takes on the review page: from the key to the confirmation of the server.

    OMP_NUM_THREADS=1 taskset -c 0 python -m benchmarks.decisions [--samples 10000] [--version DIR]

`anomalysmith serve` runs in a process of its own, Chromium shows the page, and both share the cores
that this program may use. The page itself measures: until the decision is on the disk and the page
knows. The version already holds as many decisions as it has samples, by another reviewer.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.serve import generated
from flows.serve.pages import address
from pipeline.dataset.version import Version, open_version
from pipeline.review.decision import Decision
from pipeline.review.log import review_log
from pipeline.review.order import teaching_order

CHROMIUM = os.environ.get("ANOMALYSMITH_CHROMIUM", "/usr/bin/chromium")
# Decisions that are measured, after some that are not, while libraries and tables load.
MEASURED, BEFORE = 200, 10
# Milliseconds between a confirmation and the next key: a fast reviewer.
PAUSE = 200
# What the page has measured.
_CONFIRMED = "performance.getEntriesByName('decision')"


def reviewed(version: Version) -> None:
    """Decisions of somebody else on every sample."""
    log = review_log(version.dir)
    at = "2026-01-01T12:00:00+00:00"
    verdicts = ("keep", "keep", "reject")
    log.append(
        [
            Decision(sample, verdicts[number % 3], "", "", "Ben", at)  # type: ignore[arg-type]
            for number, sample in enumerate(teaching_order(version))
        ]
    )


def latencies(version: Version) -> np.ndarray:
    """Milliseconds of each measured decision."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "flows.cli", "serve", str(version.dir.parent.parent)]
    server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        found = re.search(r"http://[\w.:]+", server.stdout.readline())
        assert found
        with sync_playwright() as playwright:
            options = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
            page = browser.new_page()
            page.add_init_script("localStorage['anomalysmith.reviewer'] = 'Anna'")
            page.goto(found[0] + address(version.category, version.name, "review"))
            page.wait_for_selector("#single:not([hidden])", timeout=120_000)
            for number in range(BEFORE + MEASURED):
                page.keyboard.press("kkrku"[number % 5])
                # The page's content security policy forbids to wait for an expression inside it.
                while page.evaluate(_CONFIRMED + ".length") <= number:
                    page.wait_for_timeout(20)
                page.wait_for_timeout(PAUSE)
            times = page.evaluate(_CONFIRMED + ".map(entry => entry.duration)")
            browser.close()
    finally:
        server.kill()
        server.wait()
    return np.array(times[BEFORE:])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--version", type=Path, help="a version that exists; it gets decisions")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        version = (
            open_version(args.version) if args.version else generated(Path(folder), args.samples)
        )
        reviewed(version)
        cores, samples = len(os.sched_getaffinity(0)), version.index["counts"]["accepted"]
        times = latencies(version)
    middle, high, most = np.percentile(times, (50, 95, 100))
    print(
        f"{samples:,} samples, {cores} core{'s' * (cores > 1)}, {len(times)} decisions: median "
        f"{middle:.0f} ms, 95 % within {high:.0f} ms, longest {most:.0f} ms"
    )


if __name__ == "__main__":
    main()
