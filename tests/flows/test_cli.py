"""The command line as its users see it: what it makes, what it prints, how it ends.

Runs go through `main()` in this process, so the models are loaded once; what needs a process of
its own (an import that must not happen, a kill) gets one.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image
from small_photos import FAST, draw_parts

from flows import cli, reference
from flows.commands.console import worst
from pipeline.errors import RecordError


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Path:
    return draw_parts(tmp_path_factory.mktemp("photos") / "parts")


@pytest.fixture(scope="session")
def finished(tmp_path_factory, parts) -> dict[str, Any]:
    """One run of the program in a process of its own, shared by the tests that only look."""
    store = tmp_path_factory.mktemp("store")
    words = ["generate", "--source", f"folder:{parts}", "--store", store, *FAST, "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, words), "--json"],
        capture_output=True, text=True, cwd=reference.PAGE.parent.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"store": store, "words": words, **json.loads(done.stdout)}


def test_generate_reports_what_the_contract_says(finished):
    promised = {
        "category", "version_dir", "digest", "images", "accepted", "rejected", "by_kind",
        "seconds", "cached",
    }  # fmt: skip
    assert promised <= finished.keys()
    assert promised <= finished["categories"][0].keys()
    assert finished["category"] == "parts"
    assert finished["images"] == 3
    assert finished["accepted"] == sum(finished["by_kind"].values()) > 0
    assert not finished["cached"]


def test_a_second_run_is_served_from_the_cache_and_imports_no_torch(finished):
    probe = (
        "import json, sys\nfrom flows.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'rembg', 'onnxruntime', 'h5py', 'pyarrow', 'prefect'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, *map(str, finished["words"]), "--json"],
        capture_output=True, text=True, cwd=reference.PAGE.parent.parent, check=True,
    )  # fmt: skip
    answer, imported = map(json.loads, done.stdout.splitlines())
    assert answer["cached"]
    assert answer["digest"] == finished["digest"]
    assert imported == []


def test_two_workers_make_the_same_dataset(anomalysmith, finished, parts, tmp_path):
    run = anomalysmith(
        "generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST, "--workers", 2,
        "--json",
    )  # fmt: skip
    assert run.code == 0
    assert run.json["digest"] == finished["digest"]
    assert not run.json["cached"]


def test_another_seed_makes_another_dataset(anomalysmith, finished, parts, tmp_path):
    run = anomalysmith(
        "generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST, "--seed", 1, "--json"
    )
    assert run.json["digest"] != finished["digest"]


def test_generate_needs_no_network(anomalysmith, parts, tmp_path, monkeypatch):
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("somebody asked for the network")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    run = anomalysmith(
        "generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST, "--limit", 1
    )
    assert run.code == 0, run.err


def test_a_killed_run_leaves_nothing_half_and_goes_on(anomalysmith, finished, parts, tmp_path):
    words = ["generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST]
    program = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, words), "--workers", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=reference.PAGE.parent.parent,
    )  # fmt: skip
    samples = tmp_path / ".cache" / "samples"
    deadline = time.monotonic() + 120
    while program.poll() is None and not list(samples.rglob("*.npz")):
        assert time.monotonic() < deadline, "the run did not start"
        time.sleep(0.02)
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    visible = [path for path in tmp_path.glob("parts/*") if not path.name.startswith(".")]
    assert all((path / "index.json").is_file() for path in visible)
    run = anomalysmith(*words, "--json")
    assert run.json["digest"] == finished["digest"]
    assert anomalysmith("verify", run.json["version_dir"]).code == 0


def test_an_interrupt_keeps_what_is_finished(anomalysmith, parts, tmp_path, monkeypatch):
    from flows.commands.progress_bars import ImageBar

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageBar, "image", interrupt)
    run = anomalysmith("generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST)
    assert run.code == 130
    assert "goes on" in run.err
    assert not (tmp_path / "parts").exists()
    assert list((tmp_path / ".cache" / "samples").rglob("*.npz"))


def test_a_bad_file_is_named_and_the_exit_code_is_3(anomalysmith, parts, tmp_path):
    folder = shutil.copytree(parts, tmp_path / "with_bad")
    whole = (folder / "000.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    words = ("generate", "--source", f"folder:{folder}", "--store", tmp_path / "s", *FAST, "--json")
    first = anomalysmith(*words)
    assert first.code == 3
    assert first.json["images"] == 3
    assert [failure["name"] for failure in first.json["failures"]] == ["cut.png"]
    assert "cut.png" in first.err
    again = anomalysmith(*words)
    assert again.code == 3
    assert again.json["cached"]


def test_a_category_that_fails_does_not_stop_the_others(anomalysmith, parts, tmp_path):
    (tmp_path / "m.yaml").write_text(
        "image_size: 128\nmodels: {inpaint: {backend: telea}}\nedits: {per_image: 1}\n"
        f"store: {tmp_path}/store\n"
        "categories:\n"
        f"  absent: {{source: folder, path: {tmp_path}/nowhere}}\n"
        f"  parts: {{source: folder, path: {parts}}}\n"
    )
    run = anomalysmith("generate", "--manifest", tmp_path / "m.yaml", "--limit", 1, "--json")
    assert run.code == 2
    absent, made = run.json["categories"]
    assert "nowhere" in absent["error"]
    assert made["images"] == 1
    assert "Traceback" not in run.err


def test_a_dry_run_touches_nothing(anomalysmith, parts, tmp_path):
    words = ("generate", "--source", f"folder:{parts}", "--store", tmp_path / "s", *FAST)
    run = anomalysmith(*words, "--dry-run", "--json")
    assert run.code == 0
    assert (run.json["images"], run.json["cached"], run.json["samples_wanted"]) == (3, 0, 6)
    assert run.json["models"]["inpaint"]["backend"] == "telea"
    assert not (tmp_path / "s").exists()
    assert "would read 3 good images" in anomalysmith(*words, "--dry-run").out


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
def test_a_users_mistake_is_one_line_and_exit_code_2(anomalysmith, words, said):
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


def test_verify_proves_a_version_and_finds_a_flipped_bit(anomalysmith, finished, tmp_path):
    good = anomalysmith("verify", finished["version_dir"], "--regenerate", 2, "--json")
    assert good.code == 0, good.err
    assert good.json["ok"]
    assert good.json["checks"]["regenerated samples"] == 2
    copy = shutil.copytree(finished["version_dir"], tmp_path / "copy")
    shard = copy / "shard-0000.h5"
    bytes_ = bytearray(shard.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    shard.write_bytes(bytes_)
    bad = anomalysmith("verify", copy, "--json")
    assert bad.code == 4
    assert not bad.json["ok"]
    assert "shard-0000.h5" in bad.err


def test_show_prints_the_lineage_and_draws_the_sample(anomalysmith, finished, tmp_path):
    run = anomalysmith("show", finished["version_dir"], 0, "--out", tmp_path / "sample.png")
    assert run.code == 0
    lineage = json.loads(run.out)
    assert lineage["dataset_digest"] == finished["digest"]
    assert lineage["source"]["name"].endswith(".png")
    with Image.open(tmp_path / "sample.png") as picture:
        assert picture.size == (3 * 128 + 16, 128 + 16)  # three pictures, labels above
    same = anomalysmith(
        "show", finished["version_dir"], lineage["id"], "--out", tmp_path / "again.png"
    )
    assert json.loads(same.out) == lineage
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sample.png").read_bytes()
    missing = anomalysmith("show", finished["version_dir"], "nobody")
    assert missing.code == 2
    assert "nobody" in missing.err


def test_stats_and_gallery_answer(anomalysmith, finished):
    figures = anomalysmith("stats", finished["version_dir"], "--json").json
    assert figures["images"] == 3
    assert "missing" in anomalysmith("stats", finished["version_dir"]).out
    page = anomalysmith("gallery", finished["version_dir"])
    assert Path(page.out.strip()).is_file()
    assert anomalysmith("verify", finished["version_dir"]).code == 0


def test_doctor_and_weights_answer(anomalysmith, parts, tmp_path):
    (tmp_path / "m.yaml").write_text(f"categories: {{p: {{source: folder, path: {parts}}}}}\n")
    run = anomalysmith("doctor", "--manifest", tmp_path / "m.yaml", "--json")
    assert run.json["categories"][0]["name"] == "p"
    rows = anomalysmith("weights", "list", "--json").json["weights"]
    assert {"bundled-u2netp", "sam-vit-b", "big-lama"} <= {row["name"] for row in rows}
    assert anomalysmith("weights", "verify", "--json").json["ok"]


def test_the_worst_exit_code_wins():
    assert worst([]) == 0
    assert worst([0, 3, 2]) == 2
    assert worst([3, 4, 2]) == 4
    assert worst([1, 4]) == 1


def test_the_options_are_these():
    """An option is a promise: adding or dropping one is a decision, made here."""
    options = {
        name: {o for p in command.params if p.param_type_name == "option" for o in p.opts}
        for name, command in reference.commands()
    }
    assert options == {
        "doctor": {"--manifest", "--json"},
        "plan": {"--manifest", "--category", "--store", "--limit", "--workers", "--json"},
        "deployments": {"--manifest", "--out", "--check", "--json"},
        "generate": {
            "--manifest", "--category", "--source", "--store", "--preset", "--per-image",
            "--limit", "--seed", "--workers", "--image-size", "--device", "--inpaint",
            "--dry-run", "--json",
        },
        "verify": {"--regenerate", "--json"},
        "stats": {"--json"},
        "show": {"--out"},
        "distill-teacher": {
            "--images", "--out", "--pdn", "--backbone", "--weights", "--layers", "--steps",
            "--batch-size", "--size", "--statistics", "--rate", "--schedule", "--seed", "--device",
            "--precision", "--workers", "--tensorboard", "--dry-run", "--json",
        },
        "diff": {"--html", "--examples", "--json"},
        "gallery": set(),
        "audit": {"--json"},
        "export": {"--to", "--out", "--samples", "--test", "--controls", "--json"},
        "gate": {"--explain", "--version", "--manifest", "--store", "--picture", "--json"},
        "gc": {"--store", "--manifest", "--older-than", "--dry-run", "--json"},
        "detectors": {"--json"},
        "train": {
            "--detector", "--version", "--out", "--profile", "--steps", "--size", "--set",
            "--seed", "--device", "--precision", "--compile", "--workers", "--teacher", "--start",
            "--dry-run", "--json",
        },
        "evaluate": {
            "--checkpoint", "--version", "--out", "--device", "--precision", "--batch-size",
            "--original-size", "--json",
        },
        "predict": {
            "--checkpoint", "--maps", "--csv", "--threshold", "--device", "--precision",
            "--batch-size", "--json",
        },
        "export-onnx": {"--checkpoint", "--out", "--version", "--tolerance", "--json"},
        "rules draft": {
            "--out", "--manifest", "--category", "--source", "--limit", "--force", "--json",
        },
        "rules check": {"--manifest", "--category", "--source", "--limit", "--json"},
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
