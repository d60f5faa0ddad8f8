"""The text of the demo, and that it goes on when one of its detectors fails."""

from pathlib import Path
from typing import Any

import pytest
from small_results import small_version

from flows.demo import detectors as demo_detectors
from flows.demo.detectors import compare_detectors, product_with_test
from flows.demo.text import comparison
from flows.jobs import compare
from flows.jobs.generate import GenerateReport, report_of
from pipeline.errors import UserError


@pytest.fixture
def report(tmp_path) -> GenerateReport:
    """The report of a version with a real test split."""
    version = small_version(tmp_path / "store", images=10, tests=6, size=(64, 64))
    return report_of(version, 0.0, True)


def test_detectors_are_compared_on_the_bottle_or_the_first_product_with_a_test_split(
    report, tmp_path, monkeypatch
):
    bare = report_of(small_version(tmp_path / "bare", images=4, tests=0), 0.0, True)
    other = report_of(small_version(tmp_path / "other", images=4, tests=2), 0.0, True)
    assert product_with_test([bare, report, other]) == report
    assert product_with_test([bare]) is None
    monkeypatch.setattr(demo_detectors, "PRODUCT", other.category)
    assert product_with_test([bare, report, other]).category == other.category


def test_a_detector_that_fails_leaves_the_others_and_a_second_run_is_served(report, monkeypatch):
    def without_laead(job: Any, watcher: Any) -> Any:
        if job.recipe.name == "laead":
            raise UserError("no memory")
        return run(job, watcher)

    run = compare.train
    monkeypatch.setattr(compare, "train", without_laead)
    content, code = compare_detectors(report)
    assert code == 2
    assert set(content["real_test"]) == {"nearest"}
    # Without the official weights the bundled backbone does the work.
    text = comparison("bottle", content)
    assert "Take " in text
    assert "left out: laead: no memory" in text
    assert Path(content["page"]).is_file()
    assert all(Path(one["report"]).is_file() for one in content["real_test"].values())
    again, _ = compare_detectors(report)
    assert again["real_test"] == content["real_test"]
