"""The tables of docs/results.md: text of a cell, published values, rank correlation."""

from typing import Any

from benchmarks.published import published
from benchmarks.results import cell, metric_table, rank_correlation, report, sharing
from benchmarks.runs import found, spread
from detectors.models.efficientad.settings import EfficientAdSettings
from detectors.registry import configure


def result(seed: int, auroc: float, validation: float, **changes: Any) -> dict[str, Any]:
    """A run's result as `benchmarks.runs` stores it, with the keys that tables read."""
    return {
        "label": "efficientad", "detector": "efficientad", "category": "bottle",
        "licence": "CC BY-NC-SA 4.0", "seed": seed, "train_seconds": 41.6,
        "validation": {"auroc": validation},
        "metrics": {
            "good": 20, "images": 83, "image_auroc": auroc, "iap": 0.5, "aupro": None,
            "intervals": {"image_auroc": [auroc - 0.1, auroc + 0.05]},
            "per_type": {"logical": {"image_auroc": 0.75, "intervals": {"image_auroc": None}}},
        },
    } | changes  # fmt: skip


RUNS = [result(0, 0.90, 0.6), result(1, 0.92, 0.7), result(2, 0.94, 0.8)]


def test_a_cell_has_mean_deviation_interval_and_the_published_value() -> None:
    text = cell(RUNS, "metrics.image_auroc")
    assert text == "0.920 ± 0.020 [0.82, 0.97] (published 1.000)"
    assert cell(RUNS, "metrics.iap") == "0.500 ± 0.000 (published 0.856)"
    assert cell(RUNS, "metrics.per_type.logical.image_auroc") == "0.750 ± 0.000"
    assert cell(RUNS[:1], "train_seconds") == "42"
    assert cell(RUNS, "metrics.aupro") == "–"


def test_rendered_bottles_have_a_column_of_their_own() -> None:
    rendered = result(0, 0.8, 0.5, licence="Apache-2.0 (rendered)")
    head, _, row = metric_table([*RUNS, rendered], "metrics.image_auroc").splitlines()
    assert head == "| detector | bottle | bottle (rendered) |"
    assert row.endswith("(published 1.000) | 0.800 [0.70, 0.85] |")


def test_reduced_categories_are_compared_with_the_whole_ones() -> None:
    assert published("laead", "hazelnut_reduced", "image_auroc") == 0.999
    assert published("semrec", "bottle", "iap90") == 0.864
    assert published("semrec", "bottle", "aupro") is None
    assert published("nearest", "tray", "image_auroc") is None


def test_the_rank_correlation_is_given_with_its_number_of_runs() -> None:
    assert rank_correlation(RUNS).startswith("Spearman's rho = 1.00 ")
    upside_down = [result(seed, auroc, -auroc) for seed, auroc in enumerate((0.1, 0.5, 0.3, 0.9))]
    assert rank_correlation(upside_down).startswith("Spearman's rho = -1.00 ")
    assert "too few" in rank_correlation(RUNS[:2])


def test_the_page_has_a_table_per_metric_that_exists() -> None:
    page = "\n".join(report(RUNS, "tiny"))
    assert "### IAP\n" in page
    assert "### AUPRO" not in page
    assert "| anomalous | 63 |" in page


def test_puad_shares_the_networks_of_efficientad_and_trains_no_step() -> None:
    efficientad = configure("efficientad", "tiny", {"width": 0.5, "steps": 7})
    puad = sharing(efficientad, "tiny")
    assert puad.schedule.steps == 0
    shared = {key: getattr(puad.settings, key) for key in EfficientAdSettings.model_fields}
    assert shared == efficientad.settings.model_dump()


def test_numbers_are_found_by_their_path_and_absent_ones_left_out() -> None:
    assert found(RUNS, "metrics.per_type.logical.image_auroc") == [0.75] * 3
    assert found(RUNS, "metrics.aupro") == found(RUNS, "metrics.mean.spro") == []
    assert spread([]) == "–"
