"""`anomalysmith generate`: what it generates and prints, how it ends, and how it continues.

Runs go through `main()` in this process, so the models are loaded once; what needs a process of
its own (an import that must not happen, a kill) gets one.
"""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

import pytest
from small_photos import FAST
from small_results import image_result, small_version

from flows import reference
from flows.commands.generate import why_none
from pipeline.dataset.version import open_version
from pipeline.reports.sample import find_sample


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


def test_a_folder_with_defects_is_refused_unless_all_are_said_to_be_normal(
    anomalysmith, parts, tmp_path
):
    for folder, images in (("OK", 2), ("NG", 1)):
        (tmp_path / "line" / folder).mkdir(parents=True)
        for path in sorted(parts.iterdir())[:images]:
            shutil.copy(path, tmp_path / "line" / folder)
    words = ["generate", *FAST, "--store", tmp_path / "store", "--dry-run", "--source"]
    source = f"folder:{tmp_path / 'line'}"
    for refused in (anomalysmith(*words, source), anomalysmith("doctor", "--source", source)):
        assert refused.code == 2
        assert f"use ok_ng:{tmp_path / 'line'}; if every" in refused.err + refused.out
    assert anomalysmith(*words, source, "--all-normal", "--json").json["images"] == 3
    found = anomalysmith(*words, f"ok_ng:{tmp_path / 'line'}", "--json").json
    assert (found["images"], found["test_images"]) == (1, 2)
    run = anomalysmith(*words, f"ok_ng:{tmp_path / 'line'}", "--all-normal")
    assert (run.code, "--all-normal is for sources of kind folder" in run.err) == (2, True)


def test_a_category_of_the_same_name_from_another_folder_is_refused(
    anomalysmith, finished, parts, tmp_path
):
    store = finished["words"][finished["words"].index("--store") + 1]
    shutil.copytree(parts, tmp_path / "parts")
    words = ["generate", "--source", f"folder:{tmp_path / 'parts'}", *FAST, "--store", store]
    run = anomalysmith(*words, "--dry-run")
    assert run.code == 2
    assert f"the category parts of {store} was made from {parts}, and this is" in run.err
    # Said, or under a name of its own, or where the first folder was moved from.
    for named in ("parts", "parts2"):
        assert anomalysmith(*words, "--dry-run", "--category", named).code == 0


def test_generate_needs_no_network(anomalysmith, parts, tmp_path, monkeypatch):
    def block(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("the network was used")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        monkeypatch.setattr(socket.socket, name, block)
    monkeypatch.setattr(socket, "getaddrinfo", block)
    run = anomalysmith(
        "generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST, "--limit", 1
    )
    assert run.code == 0, run.err


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_run_leaves_nothing_half_and_goes_on(
    anomalysmith, finished, parts, tmp_path, workers
):
    words = ["generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST]
    program = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, words), "--workers", str(workers)],
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


def test_an_interrupt_of_the_terminal_ends_run_and_workers(anomalysmith, finished, parts, tmp_path):
    words = ["generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST]
    # A group of its own, as a terminal gives one: the signal reaches the workers, too.
    program = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, words), "--workers", "2"],
        stderr=subprocess.PIPE, text=True, cwd=reference.PAGE.parent.parent, process_group=0,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list((tmp_path / ".cache" / "analysis").rglob("*.npz")):
        assert time.monotonic() < deadline, "the run did not start"
        assert program.poll() is None
        time.sleep(0.02)
    os.killpg(program.pid, signal.SIGINT)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert "continues" in err
    assert "Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(program.pid, 0)
    assert not (tmp_path / "parts").exists()
    assert anomalysmith(*words, "--json").json["digest"] == finished["digest"]


def test_an_interrupt_keeps_what_is_finished(anomalysmith, parts, tmp_path, monkeypatch):
    from flows.commands.progress_bars import ImageBar

    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageBar, "image_done", interrupt)
    run = anomalysmith("generate", "--source", f"folder:{parts}", "--store", tmp_path, *FAST)
    assert run.code == 130
    assert "continues" in run.err
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


def test_after_zero_anomalies_the_advice_names_a_sample_that_is_there(tmp_path):
    turns = (("control_noop", "seam"), ("missing", "seam"), ("extra", "too_noisy"))
    version = small_version(tmp_path / "my store", results=[image_result(turns=turns)])
    command = why_none(version.dir).split("`")[1]
    program, gate, _, sample, option, folder = shlex.split(command)
    assert (program, gate, option) == ("anomalysmith", "gate", "--version")
    found = find_sample(open_version(Path(folder)), sample)
    assert found.record["kind"] == "missing"


def test_after_zero_anomalies_without_a_kept_one_no_command_is_advised(tmp_path):
    turns = (("control_noop", ""), ("missing", "-"))
    version = small_version(tmp_path, results=[image_result(turns=turns)])
    assert "`" not in why_none(version.dir)
    assert "no rejected anomaly was kept" in why_none(version.dir)


def test_many_bad_files_are_few_lines_and_all_in_the_json(anomalysmith, parts, tmp_path):
    folder = shutil.copytree(parts, tmp_path / "with_bad")
    for number in range(12):
        (folder / f"lost_{number}.png").symlink_to("nowhere.png")
    words = ("--source", f"folder:{folder}", "--store", tmp_path / "s")
    shown = anomalysmith("generate", *words, "--dry-run")
    (line,) = [line for line in shown.out.splitlines() if "lost_" in line]
    assert "12 files: a link that leads nowhere" in line
    assert "and 9 more" in line
    assert len(anomalysmith("generate", *words, "--dry-run", "--json").json["failures"]) == 12
