"""The command line as a whole: options, help, the reference page, errors and exit codes."""

import sys
from typing import Any, NoReturn

import pytest

from flows import cli, reference
from flows.commands.console import worst_code
from pipeline.errors import RecordError


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate", "--manifest", "nowhere.yaml"), "nowhere.yaml"),
        (("generate", "--source", "folder"), "KIND:PATH"),
        (("generate", "--source", "mvtec:x"), "did you mean mvtec_ad"),
        (("generate", "--source", "folder:nowhere"), "nowhere"),
        (("generate", "--source", "folder:x", "--image-size", "100"), "multiple of 8"),
        (("generate", "--source", "folder:x", "--per-image", "-1"), "per_image"),
        (("generate", "--source", "folder:x", "--preset", "fancy"), "preset"),
        (("generate", "--source", "folder:x", "--inpaint", "magic"), "inpaint"),
        (("verify", "nowhere"), "no dataset version"),
        (("stats", "nowhere"), "no dataset version"),
        (("show", "nowhere", "0"), "no dataset version"),
        (("gallery", "nowhere"), "no dataset version"),
        (("diff", "nowhere", "nowhere"), "no dataset version"),
        (("doctor", "--manifest", "nowhere.yaml"), "nowhere.yaml"),
        (("weights", "pull", "resnet"), "no weights are called 'resnet'"),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(anomalysmith, words, said):
    run = anomalysmith(*words)
    assert run.code == 2
    assert run.out.strip().count("\n") <= 1
    (line,) = run.err.splitlines()
    assert line.startswith("anomalysmith: ")
    assert said in line


def test_usage_errors_exit_with_2(anomalysmith):
    assert anomalysmith("generate", "--wrong").code == 2
    assert anomalysmith("generate", "--limit", "0").code == 2
    assert anomalysmith("fly").code == 2


def test_a_bug_of_ours_shows_where_it_is(anomalysmith, monkeypatch):
    def break_promise(*_: Any) -> NoReturn:
        raise RecordError("two masks but one score")

    monkeypatch.setattr("pipeline.dataset.version.open_version", break_promise)
    monkeypatch.setattr(sys, "argv", ["anomalysmith", "stats", "x"])
    with pytest.raises(RecordError):  # the interpreter prints the traceback and exits with 1
        cli.main()


def test_doctor_and_weights_answer(anomalysmith, parts, tmp_path):
    (tmp_path / "m.yaml").write_text(f"categories: {{p: {{source: folder, path: {parts}}}}}\n")
    run = anomalysmith("doctor", "--manifest", tmp_path / "m.yaml", "--json")
    assert run.json["categories"][0]["name"] == "p"
    rows = anomalysmith("weights", "list", "--json").json["weights"]
    assert {"bundled-u2netp", "sam-vit-b", "big-lama"} <= {row["name"] for row in rows}
    assert anomalysmith("weights", "verify", "--json").json["ok"]


def test_the_worst_exit_code_wins():
    assert worst_code([]) == 0
    assert worst_code([0, 3, 2]) == 2
    assert worst_code([3, 4, 2]) == 4
    assert worst_code([1, 4]) == 1


def test_the_options_are_these():
    """An option is a promise: adding or dropping one is a decision, made here."""
    options = {
        name: {o for p in command.params if p.param_type_name == "option" for o in p.opts}
        for name, command in reference.commands()
    }
    assert options == {
        "doctor": {
            "--manifest", "--category", "--source", "--all-normal", "--follow-links", "--deep",
            "--json",
        },
        "compare": {
            "--detector", "--profile", "--false-alarms", "--steps", "--size", "--set", "--seed",
            "--device", "--precision", "--workers", "--threads", "--reviews", "--manifest",
            "--store", "--out", "--test", "--dry-run", "--json",
        },
        "curate": {"--reviews", "--json"},
        "plan": {"--manifest", "--category", "--store", "--limit", "--workers", "--json"},
        "deployments": {"--manifest", "--out", "--check", "--json"},
        "generate": {
            "--manifest", "--category", "--source", "--all-normal", "--follow-links", "--store",
            "--preset", "--other-products", "--per-image", "--limit", "--seed", "--reviews",
            "--workers", "--image-size", "--device", "--inpaint", "--dry-run", "--json",
        },
        "verify": {"--regenerate", "--json"},
        "stats": {"--json"},
        "show": {"--out"},
        "distill-teacher": {
            "--images", "--out", "--follow-links", "--pdn", "--backbone", "--weights", "--layers",
            "--steps",
            "--batch-size", "--size", "--statistics", "--rate", "--schedule", "--seed", "--device",
            "--precision", "--workers", "--tensorboard", "--dry-run", "--json",
        },
        "diff": {"--html", "--examples", "--json"},
        "gallery": set(),
        "serve": {"--host", "--port", "--open", "--read-only", "--rules", "--runs", "--token"},
        "audit": {"--json"},
        "export": {"--to", "--out", "--samples", "--test", "--controls", "--json"},
        "gate": {
            "--explain", "--suggest", "--reviews", "--version", "--manifest", "--store",
            "--picture", "--json",
        },
        "gc": {"--store", "--manifest", "--older-than", "--dry-run", "--json"},
        "detectors": {"--json"},
        "train": {
            "--detector", "--version", "--out", "--profile", "--steps", "--size", "--set",
            "--seed", "--device", "--precision", "--compile", "--workers", "--threads",
            "--with", "--teacher", "--reviews", "--start", "--dry-run", "--json",
        },
        "evaluate": {
            "--checkpoint", "--version", "--good", "--bad", "--masks", "--follow-links", "--out",
            "--device", "--precision", "--batch-size", "--original-size", "--json",
        },
        "predict": {
            "--checkpoint", "--maps", "--explain", "--csv", "--follow-links", "--threshold",
            "--device", "--precision", "--batch-size", "--json",
        },
        "export-onnx": {"--checkpoint", "--out", "--version", "--tolerance", "--json"},
        "rules draft": {
            "--out", "--manifest", "--category", "--source", "--all-normal", "--limit", "--force",
            "--json",
        },
        "rules check": {
            "--manifest", "--category", "--source", "--all-normal", "--limit", "--json",
        },
        "rules show": {"--json"},
        "weights list": {"--json"},
        "weights verify": {"--json"},
        "weights pull": set(),
        "weights bundle": {"--manifest", "--category", "--with", "--dry-run", "--json"},
    }  # fmt: skip


def test_every_command_and_option_has_help():
    for name, command in reference.commands():
        assert command.help, name
        assert all(parameter.help for parameter in command.params), name


def test_the_reference_page_is_fresh():
    assert reference.PAGE.read_text() == reference.page(), "run python -m flows.reference"


@pytest.mark.parametrize(("document", "name", "make"), reference.TABLES)
def test_tables_of_the_documents_are_those_of_the_registries(document, name, make):
    text = (reference.PROJECT / document).read_text()
    assert reference.with_table(text, name, make()) == text, "run python -m flows.reference"


def test_version_is_said(anomalysmith):
    assert anomalysmith("--version").out.startswith("anomalysmith ")


def test_a_failure_is_a_json_object_too(anomalysmith, tmp_path):
    run = anomalysmith("verify", tmp_path / "nowhere", "--json")
    assert run.code == 2
    assert run.json["exit_code"] == 2
    assert "no dataset version" in run.json["error"]
    assert "no dataset version" in run.err
