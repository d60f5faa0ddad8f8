"""`TrainJob` and `recipe_of` list all training options; the command and the flow repeat them."""

from dataclasses import MISSING, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
from small_results import small_version

from detectors.base import OF_STEPS
from detectors.registry import DETECTORS, PROFILES, configure
from detectors.training.job import TrainJob
from flows.commands.train import train_command
from flows.jobs.detector_options import recipe_of
from flows.jobs.train import job_of, job_of_some
from flows.train import train_detectors
from pipeline.errors import UserError

# `recipe` is resolved from the options of `recipe_of`; the other two are for tests and benchmarks.
NOT_OFFERED = {"recipe", "save_every", "board"}
# The flow trains several detectors on several versions, and calls `--set` its settings.
FLOW_NAMES = {"detector": "detectors", "changes": "settings", "version": "category"}


def options() -> dict[str, Any]:
    """Every option with its default; MISSING where it is required."""
    recipe = {
        name: MISSING if parameter.default is Parameter.empty else parameter.default
        for name, parameter in signature(recipe_of).parameters.items()
    }
    job = {field.name: field.default for field in fields(TrainJob)}
    return {name: value for name, value in (recipe | job).items() if name not in NOT_OFFERED}


def test_the_command_offers_every_option_with_its_default():
    offered = signature(train_command).parameters
    assert set(offered) == {*options(), "dry_run", "as_json"}
    for name, default in options().items():
        if default is not MISSING:
            assert (offered[name].default or None) == (default or None), name


def test_the_flow_offers_every_option_with_its_default():
    offered = signature(train_detectors.fn).parameters
    assert set(offered) == {FLOW_NAMES.get(name, name) for name in options()} | {
        "manifest",
        "store",
    }
    for name, default in options().items():
        if default is not MISSING:
            assert (offered[FLOW_NAMES.get(name, name)].default or None) == (default or None), name


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("key", OF_STEPS)
def test_settings_of_steps_are_refused_where_nothing_is_trained(name, key):
    values = {"stop_on": "loss", "validate_every": 2}
    # A criterion for stopping needs validation passes.
    changes = {key: values.get(key, 3), "validate_every": 2}
    for profile in PROFILES:
        trains = configure(name, profile).settings.trains()
        assert trains == (configure(name, profile).schedule.steps > 0)
        if trains:
            recipe = configure(name, profile, changes)
            assert getattr(recipe.schedule, key) == changes[key]
        else:
            with pytest.raises(UserError, match=f"{name} .* trains no network.* no .*{key}"):
                configure(name, profile, changes)
            assert configure(name, profile, {"steps": "0"}).schedule.steps == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--steps", 60), "takes no steps; leave it out"),
        (("--set", "batch_size=3"), "takes no batch_size"),
        (("--compile", "default"), "takes no --compile"),
        (("--compile", "fast"), "compile is off, default or reduce-overhead"),
        (("--device", "gpu"), "a device is auto, cpu, cuda"),
        (("--precision", "half"), "a precision is one of"),
        (("--start", "nowhere"), "takes no --start"),
        (("--set", "sze=64"), "no setting 'sze'"),
        (("--size", 65), "multiple of 32"),
    ],
)
def test_what_a_detector_cannot_take_is_refused_by_a_dry_run_too(
    anomalysmith, tmp_path, words, error
):
    version = small_version(tmp_path / "store", images=4, size=(64, 64)).dir
    plain = ("train", "--detector", "nearest", "--profile", "tiny", "--version", version)
    for dry in (("--dry-run",), ()):
        run = anomalysmith(*plain, "--out", tmp_path / "out", *words, *dry)
        assert (run.code, run.out) == (2, "")
        assert error in run.err
        assert run.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_of_several_detectors_those_that_train_nothing_take_no_steps():
    common = {"profile": "tiny", "steps": 7, "compile": "default", "version": Path(), "out": Path()}
    student, nearest = (job_of_some(common | {"detector": n}) for n in ("efficientad", "nearest"))
    assert (student.recipe.schedule.steps, student.compile) == (7, "default")
    assert (nearest.recipe.schedule.steps, nearest.compile) == (0, "off")


def test_a_job_takes_its_options_and_ignores_others():
    given = {"detector": "nearest", "profile": "tiny", "size": 64, "changes": ["bank=7"]}
    job = job_of(given | {"version": Path("v"), "out": Path("o"), "seed": 3, "dry_run": True})
    assert (job.recipe.name, job.recipe.settings.size, job.seed) == ("nearest", 64, 3)
    assert job.recipe.settings.model_dump()["bank"] == 7
    with pytest.raises(UserError, match="magic"):
        job_of(given | {"detector": "magic", "version": Path(), "out": Path()})
