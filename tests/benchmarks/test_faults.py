"""The drills of `benchmarks.faults`: the quick ones always, those with whole runs as slow tests."""

import pytest

from benchmarks.faults import __main__ as faults

QUICK = ("memory", "bundled", "pulled")


@pytest.mark.parametrize("name", QUICK)
def test_a_quick_drill_is_survived(name):
    outcome = faults.run_drill(name)
    assert outcome.survived, outcome.happened


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(faults.DRILLS) - set(QUICK)))
def test_a_drill_with_whole_runs_is_survived(name):
    outcome = faults.run_drill(name)
    if outcome.lost == "not carried out":
        pytest.skip(outcome.happened)
    assert outcome.survived, outcome.happened


def test_the_table_reports_what_was_lost(monkeypatch, capsys):
    lost = faults.Outcome("x", False, "it broke", "an image")
    monkeypatch.setattr(faults, "DRILLS", {"x": lambda work: lost, "y": lambda work: 1 / 0})
    assert faults.main([]) == 1
    said = capsys.readouterr().out
    assert "LOST" in said
    assert "an image" in said
