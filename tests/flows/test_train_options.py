"""`TrainJob` and `recipe_of` list all training options; the command and the flow repeat them."""

from dataclasses import MISSING, fields
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest

from detectors.training.job import TrainJob
from flows.commands.train import train_command
from flows.jobs.detector_options import recipe_of
from flows.jobs.train import job_of
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


def test_a_job_takes_its_options_and_ignores_others():
    given = {"detector": "nearest", "profile": "tiny", "size": 64, "changes": ["bank=7"]}
    job = job_of(given | {"version": Path("v"), "out": Path("o"), "seed": 3, "dry_run": True})
    assert (job.recipe.name, job.recipe.settings.size, job.seed) == ("nearest", 64, 3)
    assert job.recipe.settings.model_dump()["bank"] == 7
    with pytest.raises(UserError, match="magic"):
        job_of(given | {"detector": "magic", "version": Path(), "out": Path()})
