"""A stored sample before the gate once more: its scores, the limits, and where those come from."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dataset.version import Version
from pipeline.gate.calibration import NormalModel
from pipeline.gate.checks import Finding, findings
from pipeline.gate.judge import apart, scores_of
from pipeline.gate.scores import duplicate_iou
from pipeline.gate.settings import GateSettings
from pipeline.generation.stored_images import StoredImages
from pipeline.models import device as devices
from pipeline.records import Edit, Sample
from pipeline.reports.sample import Shown, overlay, side_by_side

SAME = 1e-4
"""Scores that differ by less are the same: records hold five decimals."""


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A sample and the version that holds it."""

    version: Version
    shown: Shown


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What there is to say about a sample: as JSON, and what the picture of it needs."""

    content: dict[str, Any]
    normality: NormalModel


def explanation(found: Found) -> Told:
    """Every rule on the stored pixels. Learns what is normal from the version's own images."""
    devices.one_thread()
    version, shard, row = found.version, found.shown.shard, found.shown.row
    record = found.shown.record
    settings = GateSettings.model_validate(version.index["settings"]["gate"])
    source = shard.source(row)
    image_HW3 = shard.original(source)
    sample = _sample(found.shown)
    normality = StoredImages(version).normality().without(record["source"]["digest"])
    twin = duplicate_iou(sample, _earlier(found))
    rows: list[dict[str, Any]] = []
    scores: dict[str, float] = {}
    for number, part in enumerate(apart(sample, image_HW3)):
        suffix = "" if number == 0 else f"_{number + 1}"
        measured = scores_of(part, image_HW3, settings, normality, twin, always=True)
        scores |= {f"{name}{suffix}": value for name, value in measured.items()}
        edit = part.edit.kind if sample.edit.kind != part.edit.kind else ""
        for finding in findings(part.edit, measured, settings, normality.limits):
            said = finding.to_json() | {"edit": edit, "said": in_words(finding)}
            rows.append(said)
    broken = next((row for row in rows if not row["passed"]), None)
    content = {
        "id": record["id"],
        "kind": record["kind"],
        "version_dir": str(version.dir.resolve()),
        "accepted": broken is None,
        "reason": broken["reason"] if broken else "",
        "recorded": {name: record[name] for name in ("accepted", "reason")},
        "rules": rows,
        "scores": scores,
        "differs": _differs(record["scores"], scores),
        "limits": normality.limits.to_json(),
        "notes": _notes(found, broken),
    }
    return Told(content, normality)


def in_words(finding: Finding) -> str:
    """One sentence about a finding, with its numbers."""
    rule = finding.rule
    if finding.limit is None:
        return f"wanted: {rule.words}; measured {finding.score:.4g}, and there is no limit"
    beyond = "at most" if rule.sense == "above" else "at least"
    kept = "holds" if finding.passed else "does not hold"
    return (
        f"wanted: {rule.words}; this {kept}: {rule.score} is {finding.score:.4g}, allowed is "
        f"{beyond} {finding.limit:.4g} ({finding.origin})"
    )


def heat_picture(found: Found, told: Told) -> np.ndarray:
    """Original, edited, edited under its mask, and how far each place is from the normals.

    The last one runs from black (like a normal) to white (twice the limit, or more); without a bank
    of patches it is grey.
    """
    import cv2

    shard, row = found.shown.shard, found.shown.row
    edited_HW3 = shard.edited(row)
    pictures = [shard.original(shard.source(row)), edited_HW3, overlay(edited_HW3, shard.mask(row))]
    bank, limit = told.normality.patches, told.normality.limits.max_patch_distance
    if bank is None:
        heat_HW3 = np.full_like(edited_HW3, 128)
    else:
        map_HW = bank.distance_map(edited_HW3)
        top = 2 * limit if limit else float(map_HW.max()) or 1.0
        levels_HW = np.clip(255 * map_HW / top, 0, 255).astype(np.uint8)
        heat_HW3 = cv2.applyColorMap(levels_HW, cv2.COLORMAP_INFERNO)[..., ::-1]
    labels = ["original", f"edited: {found.shown.record['kind']}", "change mask", "distance"]
    return side_by_side([*pictures, heat_HW3], labels)


def _sample(shown: Shown) -> Sample:
    shard, row = shown.shard, shown.row
    edit = Edit.from_json(shown.record["edit"])
    return Sample(edit, shard.edited(row), shard.mask(row), shard.object_mask(row))


def _earlier(found: Found) -> list[Sample]:
    """The accepted samples of the same image and kind that came before this one."""
    record = found.shown.record
    own = (record["source"]["name"], record["kind"])
    earlier = []
    for shard in found.version.shards:
        for j in range(shard.samples):
            other = shard.record(j)
            same = (other["source"]["name"], other["kind"]) == own
            if same and other["number"] < record["number"]:
                earlier.append(_sample(Shown(shard, j, other)))
    return earlier


def _differs(recorded: dict[str, float], measured: dict[str, float]) -> dict[str, Any]:
    """Scores that are not what the record says."""
    return {
        name: {"recorded": recorded[name], "measured": measured[name]}
        for name in sorted(set(recorded) & set(measured))
        if abs(recorded[name] - measured[name]) > SAME * max(1.0, abs(recorded[name]))
    }


def _notes(found: Found, broken: dict[str, Any] | None) -> list[str]:
    recorded = found.shown.record
    notes = []
    if recorded["accepted"] and broken:
        notes.append("it was accepted; the rule that speaks against it came later or has changed")
    if not recorded["accepted"] and not broken:
        known = recorded["reason"]
        notes.append(f"no rule of the gate refuses it now; {known!r} was another judge or release")
    if "limits" not in found.version.index:
        notes.append("the version has no calibrated limits; they were learned from it just now")
    return notes
