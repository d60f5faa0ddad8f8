"""`prefect.yaml` from the manifest: per flow one deployment for each category, and one for all.

Everything that a deployment says is decided here, so the file is never edited by hand:
`anomalysmith deployments` writes it, `--check` and a test tell when it is stale. Prefect itself is
not needed.
"""

import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from flows.jobs.category_options import MANIFEST
from pipeline.config.schema import Manifest
from pipeline.errors import UserError

POOL = "local"
"""The work pool that docs/prefect.md makes."""
ALL = "all"
"""The deployment that goes through every category."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """One flow: where it is found, what it makes, and when it would run if its schedule were on."""

    flow: str
    entrypoint: str
    anchor: str
    makes: str
    nightly: str
    one: str
    every: str


FLOWS = (
    Deployed(
        "generate-anomalies", "flows/generate.py:generate_anomalies", "generate", "dataset",
        "0 1 * * *", "Regenerate the category {}", "Regenerate every category",
    ),
    Deployed(
        "train-detectors", "flows/train.py:train_detectors", "train", "detectors",
        "0 3 * * *", "Train the detectors on the category {}",
        "Train the detectors on every category",
    ),
    Deployed(
        "evaluate-detectors", "flows/evaluate.py:evaluate_detectors", "evaluate", "report",
        "0 6 * * *", "Evaluate the detectors of the category {}",
        "Evaluate the detectors of every category",
    ),
)  # fmt: skip

HEAD = """\
# Deployments of the flows generate-anomalies, train-detectors and evaluate-detectors, each one per
# category of {manifest} and one for all. Written by `{command}`;
# run it again when a category comes or goes. docs/prefect.md goes through it: server, pool,
# `prefect --no-prompt deploy --all`, worker.
name: anomalysmith
prefect-version: {prefect}

# Where the checkout lies is asked when deploying, so that no path stands in this file.
build:
  - prefect.deployments.steps.run_shell_script:
      id: checkout
      script: pwd
      stream_output: false

pull:
  - prefect.deployments.steps.set_working_directory:
      directory: "{{{{ checkout.stdout }}}}"

definitions:
  common: &common
    work_pool:
      name: {pool}
      job_variables:
        env:
          DO_NOT_TRACK: "1"
          PREFECT_SERVER_ANALYTICS_ENABLED: "false"
          PREFECT_FLOWS_HEARTBEAT_FREQUENCY: "30"  # seconds; automations.yaml waits for them
    # A second run of the same deployment waits for the first one. Runs of different deployments
    # wait for the limit of the pool (or of the worker, with several machines), which
    # docs/prefect.md sets to 1: one GPU, one job. Tasks are tried again only after faults that may
    # pass by themselves (flows/orchestration/tasks.py); a mistake fails the run at once.
    concurrency_limit: {{limit: 1, collision_strategy: ENQUEUE}}
"""
ANCHOR = """\
  {anchor}: &{anchor}
    <<: *common
    entrypoint: {entrypoint}
    # Every night, once somebody switches it on: `prefect deployment schedule resume`.
    schedules: [{{cron: "{nightly}", timezone: UTC, active: false}}]
"""


def render(manifest: Manifest, path: Path = MANIFEST, out: Path = Path("prefect.yaml")) -> str:
    """The text of `prefect.yaml` for a manifest at `path`; flows run in the folder of `out`.

    UserError for names of categories that Prefect cannot keep apart.
    """
    require_names(list(manifest.categories))
    folder = out.absolute().parent
    words, named = ["anomalysmith deployments"], _seen_from(folder, path)
    if named != str(MANIFEST):
        words.append(f"--manifest {named}")
    text = HEAD.format(
        manifest=named, command=" ".join(words), prefect=version("prefect"), pool=POOL
    )
    text += "".join(
        ANCHOR.format(anchor=f.anchor, entrypoint=f.entrypoint, nightly=f.nightly) for f in FLOWS
    )
    blocks = ["\ndeployments:\n"]
    for flow in FLOWS:
        for category in (*manifest.categories, None):
            blocks.append(_deployment(flow, category, named))
    return text + "".join(blocks)


def require_names(categories: list[str]) -> None:
    """UserError unless each category can have a deployment and an artifact of its own."""
    if ALL in categories:
        raise UserError(
            f"categories.{ALL}: Prefect's deployment {ALL!r} is the one for every category; "
            "give this category another name"
        )
    same: dict[str, list[str]] = defaultdict(list)
    for category in categories:
        same[re.sub(r"[^a-z0-9]+", "-", category.lower()).strip("-")].append(category)
    for key, names in same.items():
        if len(names) > 1:
            raise UserError(
                f"the categories {' and '.join(names)} would share Prefect's artifact "
                f"'anomalies-{key}', whose keys hold lower-case letters, digits and dashes only; "
                "give one of them another name"
            )


def _deployment(flow: Deployed, category: str | None, manifest: str) -> str:
    what = flow.every if category is None else flow.one.format(category)
    after = ", one after another" if category is None else ""
    parameters = {} if category is None else {"category": category}
    if manifest != str(MANIFEST):
        parameters["manifest"] = manifest
    tags = [f"category:{category or ALL}", f"flow:{flow.flow}", f"kind:{flow.makes}"]
    said = f"{what} of {manifest}{after}."
    inside = ", ".join(f"{key}: {_plain(value)}" for key, value in parameters.items())
    return (
        f"  - name: {_plain(category or ALL)}\n"
        f"    <<: *{flow.anchor}\n"
        f"    description: {_plain(said)}\n"
        f"    parameters: {{{inside}}}\n"
        f"    tags: [{', '.join(map(_plain, tags))}]\n"
    )


def _plain(text: str) -> str:
    """Text as YAML, in quotes where Prefect's reader takes it for something else (`on`, `1.0`).

    That reader is PyYAML, which knows more such words than the one that reads our manifests.
    """
    try:
        same = yaml.safe_load(f"[{text}]") == [text]
    except yaml.YAMLError:
        same = False
    return text if same else json.dumps(text)


def _seen_from(folder: Path, path: Path) -> str:
    """A path as a flow names it: relative below the folder it runs in, absolute outside."""
    whole = Path(os.path.abspath(path))
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)
