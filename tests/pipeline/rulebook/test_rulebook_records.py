"""Rules in the manifest, in lineage records and in the table of attempts."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.manifest import read_manifest, resolve
from pipeline.dataset.attempts import canonical_attempts, read_attempts, write_attempts
from pipeline.dataset.lineage import rules_record
from pipeline.errors import ManifestError
from pipeline.records import Verdict


def row(**more: object) -> dict[str, object]:
    return {
        "image": "a", "split": "train", "number": 0, "attempt": 0, "kind": "missing", "seed": 1,
        "accepted": True, "reason": "", "scores": {"seam": 1.0}, "seconds": 0.1, "shard": "s",
        "row": 0, **more,
    }  # fmt: skip


def test_the_table_keeps_rules_and_their_absence(tmp_path: Path) -> None:
    rows = [row(rule="nut.count", broken=["nut.count"]), row(attempt=1)]
    write_attempts(tmp_path / "a.parquet", rows)
    assert list(canonical_attempts(read_attempts(tmp_path / "a.parquet"))) == list(
        canonical_attempts(rows)
    )
    write_attempts(tmp_path / "b.parquet", [row()])
    assert "rule" not in read_attempts(tmp_path / "b.parquet")[0]


def test_a_manifest_names_a_rule_book_that_is_there(tmp_path: Path) -> None:
    text = "categories:\n  bolts:\n    source: folder\n    path: .\n    rules: bolts.yaml\n"
    path = tmp_path / "data_manifest.yaml"
    path.write_text(text)
    with pytest.raises(ManifestError, match=r"yaml:5: categories\.bolts\.rules: there is no rule"):
        read_manifest(path)
    (tmp_path / "bolts.yaml").write_text("version: 1\n")
    assert resolve(read_manifest(path), "bolts").rules == tmp_path / "bolts.yaml"


def test_verdicts_without_a_book_record_no_rules() -> None:
    assert rules_record(Verdict(True, "", {"seam": 1.0})) == {}
    ruled = Verdict(False, "breaks_no_rule", {"rules_broken": 0.0})
    assert rules_record(ruled) == {"rule": "", "broken": []}
    assert replace(ruled, rule="a.count").rule == "a.count"
