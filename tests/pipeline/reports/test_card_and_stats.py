"""Statistics, dataset card and Croissant metadata say what the version holds."""

import json
import subprocess

import pytest
from small_results import small_version

from pipeline.dataset.files import CARD, CROISSANT, SUMS
from pipeline.dataset.version import Version
from pipeline.reports.stats import as_text, stats
from pipeline.utils.file_hash import sha256_file


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return small_version(tmp_path_factory.mktemp("store"), images=7)


def test_statistics_and_card_state_the_counts(version):
    figures = stats(version)
    assert figures["by_kind"]["extra"]["rate"] == 0.5
    assert (
        figures["bytes"]["total"]
        == sum(p.stat().st_size for p in version.dir.rglob("*.*"))
        + (version.dir / SUMS).stat().st_size
    )
    text = as_text(figures)
    assert "no_edit" in text
    assert "extra" in text
    card = (version.dir / CARD).read_text()
    assert "CC0-1.0" in card
    assert "| extra | 14 | 7 | 50% |" in card


def test_croissant_lists_every_data_file(version):
    described = json.loads((version.dir / CROISSANT).read_text())
    assert described["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert described["license"] == "https://creativecommons.org/publicdomain/zero/1.0/"
    for file in described["distribution"]:
        assert file["sha256"] == sha256_file(version.dir / file["contentUrl"])
    columns = {field["name"] for field in described["recordSet"][0]["field"]}
    assert columns == {key for key in version.attempts()[0] if key != "scores"}
    checked = subprocess.run(
        ["sha256sum", "-c", SUMS], cwd=version.dir, capture_output=True, check=False
    )
    assert checked.returncode == 0
