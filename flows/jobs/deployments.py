"""Generate `prefect.yaml` from the manifest: per flow one deployment for each category and for all.

The file is never edited by hand: `anomalysmith deployments` writes it, `--check` and a test report
when it is stale. Prefect itself is not imported.
"""

import json
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from flows.jobs.category_options import MANIFEST
from pipeline.config.schema import Manifest
from pipeline.environment import NO_TELEMETRY
from pipeline.errors import UserError

# The work pool that docs/prefect.md creates.
POOL = "local"
# Name of the deployment for all categories.
ALL = "all"


@dataclass(frozen=True, slots=True)
class Deployed:
    """One flow: its entry point, what it produces, and when it runs once its schedule is on.

    `anchor` is its name in the YAML file, `nightly` a cron line, `one` and `every` its descriptions
    for one category and for all.
    """

    flow: str
    entrypoint: str
    anchor: str
    makes: str
    nightly: str
    one: str
    every: str


# Schedules are apart from each other, as each flow needs the results of the one before.
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
    Deployed(
        "compare-detectors", "flows/compare.py:compare_detectors", "compare", "comparison",
        "0 8 * * *", "Compare detectors on the category {}",
        "Compare detectors on every category",
    ),
)  # fmt: skip

HEAD = """\
# Deployments of the flows generate-anomalies, train-detectors, evaluate-detectors and
# compare-detectors, each one per category of {manifest} and one for all. Written by `{command}`;
# run it again when categories change. docs/prefect.md explains the steps: server, pool,
# `prefect --no-prompt deploy --all`, worker.
name: anomalysmith
prefect-version: {prefect}

# The path of the checkout is determined when deploying, so this file contains none.
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
{environment}
          PREFECT_FLOWS_HEARTBEAT_FREQUENCY: "30"  # seconds; automations.yaml waits for them
    # A second run of the same deployment waits for the first one. Runs of different deployments
    # wait for the limit of the pool (or of the worker, with several machines), which
    # docs/prefect.md sets to 1: one GPU, one job. Tasks are retried after transient errors only
    # (flows/orchestration/tasks.py); a user error fails the run at once.
    concurrency_limit: {{limit: 1, collision_strategy: ENQUEUE}}
"""
ANCHOR = """\
  {anchor}: &{anchor}
    <<: *common
    entrypoint: {entrypoint}
    # Every night, once it is switched on: `prefect deployment schedule resume`.
    schedules: [{{cron: "{nightly}", timezone: UTC, active: false}}]
"""


def render(manifest: Manifest, path: Path = MANIFEST, out: Path = Path("prefect.yaml")) -> str:
    """The text of `prefect.yaml` for a manifest at `path`; flows run in the folder of `out`.

    Raises UserError for category names that Prefect cannot tell apart.
    """
    require_names(list(manifest.categories))
    folder = out.absolute().parent
    # The command that renders this very file again, for its first comment.
    words, named = ["anomalysmith deployments"], _seen_from(folder, path)
    if named != str(MANIFEST):
        words.append(f"--manifest {named}")
    # The head with common settings, an anchor per flow, then all deployments.
    text = HEAD.format(
        manifest=named, command=" ".join(words), prefect=version("prefect"), pool=POOL,
        environment="\n".join(f'          {k}: "{v}"' for k, v in NO_TELEMETRY.items()),
    )  # fmt: skip
    text += "".join(
        ANCHOR.format(anchor=f.anchor, entrypoint=f.entrypoint, nightly=f.nightly) for f in FLOWS
    )
    blocks = ["\ndeployments:\n"]
    for flow in FLOWS:
        # None stands for all categories.
        for category in (*manifest.categories, None):
            blocks.append(_deployment(flow, category, named))
    return text + "".join(blocks)


def require_names(categories: list[str]) -> None:
    """Raise UserError unless each category gets its own deployment and its own artifact."""
    if ALL in categories:
        raise UserError(
            f"categories.{ALL}: the deployment {ALL!r} is reserved for all categories; rename this "
            "category"
        )
    # Different names may end up with the same key.
    same: dict[str, list[str]] = defaultdict(list)
    for category in categories:
        same[artifact_key(f"anomalies-{category}")].append(category)
    for key, names in same.items():
        if len(names) > 1:
            raise UserError(
                f"the categories {' and '.join(names)} would share Prefect's artifact "
                f"{key!r}, whose keys hold lower-case letters, digits and dashes only; "
                "rename one of them"
            )


def artifact_key(name: str) -> str:
    """A name as the key of an artifact: Prefect allows lower-case letters, digits and dashes."""
    # Every other run of characters becomes one dash.
    key = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    # Names in other scripts would all be the same without their letters.
    return key if name.isascii() else f"{key}-{sha256(name.encode()).hexdigest()[:8]}"


def _deployment(flow: Deployed, category: str | None, manifest: str) -> str:
    """One entry of `deployments`; `category` None stands for all of them."""
    what = flow.every if category is None else flow.one.format(category)
    # Descriptions, parameters and tags.
    after = ", one after another" if category is None else ""
    parameters = {} if category is None else {"category": category}
    # The default manifest needs no parameter.
    if manifest != str(MANIFEST):
        parameters["manifest"] = manifest
    # Tags find the runs of a category or of a flow in Prefect's pages.
    tags = [f"category:{category or ALL}", f"flow:{flow.flow}", f"kind:{flow.makes}"]
    description = f"{what} of {manifest}{after}."
    inside = ", ".join(f"{key}: {_plain(value)}" for key, value in parameters.items())
    return (
        f"  - name: {_plain(category or ALL)}\n"
        f"    <<: *{flow.anchor}\n"
        f"    description: {_plain(description)}\n"
        f"    parameters: {{{inside}}}\n"
        f"    tags: [{', '.join(map(_plain, tags))}]\n"
    )


def _plain(text: str) -> str:
    """Text as YAML, quoted where it would be read as another type (`on`, `1.0`).

    Prefect uses PyYAML, which converts more words than the parser of our manifests does.
    """
    try:
        # Inside a list, as in `tags` and `parameters`.
        same = yaml.safe_load(f"[{text}]") == [text]
    except yaml.YAMLError:
        same = False
    return text if same else json.dumps(text)


def _seen_from(folder: Path, path: Path) -> str:
    """A path as seen from a flow: relative inside the folder it runs in, else absolute."""
    whole = Path(os.path.abspath(path))
    return str(whole.relative_to(folder)) if whole.is_relative_to(folder) else str(whole)
