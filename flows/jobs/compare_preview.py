"""`compare --dry-run`: which detectors would be trained, and about how long that takes."""

import json
from pathlib import Path
from typing import Any

from detectors.training.job import TrainJob
from flows.jobs.compare import CompareJob, Plan, planned
from flows.jobs.train import CARD, home_of
from flows.jobs.train_preview import resumes
from pipeline.utils.repeated import repeated
from pipeline.utils.text_table import table


def preview(job: CompareJob) -> dict[str, Any]:
    """The trainings with their states and estimates, what is left out, and what is held out."""
    from detectors.training.fold import PAIRS

    plan = planned(job)
    splits = plan.version.index["counts"]["splits"]
    held = dict(splits["validation"])
    # Cross-fitting holds every normal out of one of its fits, with so many samples.
    if all(one.recipe.schedule.folds for one in plan.jobs):
        held["images"] += splits["train"]["images"]
        held["samples"] += min(splits["train"]["samples"], PAIRS)
    return {
        "dry_run": True,
        "version": str(plan.version.dir),
        "category": plan.version.category,
        "profile": plan.profile,
        "false_alarms": job.false_alarms,
        "held_out": held,
        "smallest_false_alarms": 1 / (held["images"] + 1),
        "out": str(plan.out),
        "detectors": [_row(one, plan) for one in plan.jobs],
        "left_out": [{"detector": name, "why": why} for name, why in plan.left_out.items()],
    }


def preview_text(facts: dict[str, Any]) -> str:
    """The preview as text."""
    rows = [
        (row["detector"], row["steps"], _state(row["resumes"]), _about(row["seconds"]))
        for row in facts["detectors"]
    ]
    known = [row["seconds"] for row in facts["detectors"]]
    total = None if None in known else sum(known)
    held, smallest = facts["held_out"], facts["smallest_false_alarms"]
    lines = [
        f"{facts['category']}: would compare {len(rows)} detectors on {facts['version']}",
        f"  profile   {facts['profile']}",
        f"  held out  {held['images']} normals, {held['samples']} samples; the smallest rate of "
        f"false alarms that so many normals can promise is {smallest:.1%}",
        f"  to        {facts['out']}",
        "",
        table(("detector", "steps", "begins", "training"), rows),
        "",
        f"in total  {_about(total)}",
    ]
    left_out = ((row["detector"], row["why"]) for row in facts["left_out"])
    lines += [f"left out: {line}" for line in repeated(left_out, "detectors")]
    return "\n".join(lines)


def _row(one: TrainJob, plan: Plan) -> dict[str, Any]:
    return {
        "detector": one.recipe.name,
        "steps": one.recipe.schedule.steps,
        "teacher": one.recipe.settings.teacher,
        "checkpoint": str(one.out),
        "resumes": (state := resumes(one.out)),
        "seconds": _estimate(one, plan, state),
    }


def _estimate(one: TrainJob, plan: Plan, state: dict[str, Any]) -> float | None:
    """Seconds that a training has left, from the latest one with the same settings, if any."""
    if state["state"] == "finished":
        return 0.0
    wanted = one.recipe.settings.model_dump(mode="json")
    homes = {plan.out, home_of(plan.version.dir.parent.parent)}
    cards = {
        path
        for home in homes
        for pattern in (f"{one.recipe.name}-*/{CARD}", f"*/*/{one.recipe.name}-*/{CARD}")
        for path in home.glob(pattern)
    }
    for path in sorted(cards, key=lambda path: path.stat().st_mtime, reverse=True):
        card = _read(path)
        same_batch = card.get("schedule", {}).get("batch_size") == one.recipe.schedule.batch_size
        if card.get("settings") == wanted and same_batch:
            left = one.recipe.schedule.steps - (state["step"] or 0)
            # A training without steps takes what it took.
            share = left / card["steps"] if card["steps"] else 1.0
            return float(card["seconds"]) * share
    return None


def _read(path: Path) -> dict[str, Any]:
    """The card of a checkpoint as JSON; empty when it is damaged, as this is an estimate."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _state(resumes: dict[str, Any]) -> str:
    if resumes["state"] == "interrupted":
        return f"at step {resumes['step']}"
    return "finished" if resumes["state"] == "finished" else "new"


def _about(seconds: float | None) -> str:
    if seconds is None:
        return "unknown: no earlier training with these settings"
    return f"about {seconds:,.0f} s" if seconds < 90 else f"about {seconds / 60:,.0f} min"
