"""The text of the demo, and that it goes on when one of its detectors fails."""

from pathlib import Path
from typing import Any

import pytest
from small_results import small_version

from flows.demo import detectors as demo_detectors
from flows.demo.detectors import product_with_test, train_detectors
from flows.demo.text import results
from flows.jobs.generate import GenerateReport, report_of
from pipeline.errors import UserError


@pytest.fixture
def report(tmp_path) -> GenerateReport:
    """The report of a version with a real test split."""
    version = small_version(tmp_path / "store", images=10, tests=6, size=(64, 64))
    return report_of(version, 0.0, True)


def test_detectors_are_trained_on_the_first_product_with_a_test_split(report, tmp_path):
    bare = report_of(small_version(tmp_path / "bare", images=4, tests=0), 0.0, True)
    assert product_with_test([bare, report]) == report
    assert product_with_test([bare]) is None


def test_a_detector_that_fails_leaves_the_other_and_a_second_run_is_served(report, monkeypatch):
    def only_nearest(job: Any, watcher: Any) -> Any:
        if job.recipe.name != "nearest":
            raise UserError("no weights")
        return run(job, watcher)

    run = demo_detectors.train
    monkeypatch.setattr(demo_detectors, "train", only_nearest)
    (first,), codes = train_detectors(report)
    assert codes == [2]
    assert first.detector == "nearest"
    assert not first.cached
    text = results("tray", [first])
    assert f"{first.numbers['image_auroc']:.3f}" in text
    assert "2 good images and 4 with a defect" in text
    assert Path(first.numbers["report"]).is_file()
    (again,), _ = train_detectors(report)
    assert again.cached
    assert again.numbers["image_auroc"] == first.numbers["image_auroc"]
