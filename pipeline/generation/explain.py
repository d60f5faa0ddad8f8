"""Judge a stored sample again: its scores, the limits of the gate, and where those come from."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dataset.version import Version
from pipeline.gate.calibration import NormalModel
from pipeline.gate.checks import Finding, findings
from pipeline.gate.judge import scores_of, split_combined
from pipeline.gate.scores import duplicate_iou
from pipeline.gate.settings import GateSettings
from pipeline.generation.stored_images import StoredImages
from pipeline.models import device as devices
from pipeline.records import Edit, Sample
from pipeline.reports.sample import StoredSample, overlay, side_by_side

# Relative difference below which two scores count as equal: records hold five decimals.
SAME = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class FoundSample:
    """A sample and the version that holds it."""

    version: Version
    shown: StoredSample


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """The facts about a sample as JSON, and the normal model that `heat_image` needs."""

    content: dict[str, Any]
    normal_model: NormalModel


def explain(found: FoundSample) -> Explanation:
    """Every check of the gate on the stored pixels of a sample.

    The normal model is learned again from the version's own images, without the image of the
    sample itself, as it was when the sample was generated.
    """
    devices.one_thread()
    # Where the sample is stored, and the settings that its version was generated with.
    version, shard, row = found.version, found.shown.shard, found.shown.row
    record = found.shown.record
    # Settings of older releases are completed with the defaults of today.
    settings = GateSettings.model_validate(version.index["settings"]["gate"])
    source = shard.source(row)
    image_HW3 = shard.original(source)
    # The inputs of the gate, rebuilt from what is stored.
    sample = _sample(found.shown)
    normal_model = StoredImages(version).normal_model().without(record["source"]["digest"])
    overlap = duplicate_iou(sample, _earlier(found))
    # Every check of every part, also those after the first failure.
    rows: list[dict[str, Any]] = []
    scores: dict[str, float] = {}
    # A combined edit is judged part by part; scores of later parts get a number.
    for number, part in enumerate(split_combined(sample, image_HW3)):
        suffix = "" if number == 0 else f"_{number + 1}"
        measured = scores_of(part, image_HW3, settings, normal_model, overlap, always=True)
        scores |= {f"{name}{suffix}": value for name, value in measured.items()}
        edit = part.edit.kind if sample.edit.kind != part.edit.kind else ""
        for finding in findings(part.edit, measured, settings, normal_model.limits):
            rows.append(finding.to_json() | {"edit": edit, "said": finding_text(finding)})
    # The first failed check gives the rejection reason, as in the gate.
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
        "limits": normal_model.limits.to_json(),
        "notes": _notes(found, broken),
    }
    return Explanation(content, normal_model)


def finding_text(finding: Finding) -> str:
    """One sentence about a finding, with its numbers."""
    check = finding.check
    if finding.limit is None:
        return f"expected: {check.expectation}; measured {finding.score:.4g}, no limit is set"
    bound = "at most" if check.rejected_when == "above" else "at least"
    result = "passed" if finding.passed else "failed"
    return (
        f"expected: {check.expectation}; {result}: {check.score} is {finding.score:.4g}, allowed "
        f"is {bound} {finding.limit:.4g} ({finding.origin})"
    )


def heat_image(found: FoundSample, explained: Explanation) -> np.ndarray:
    """Original, edited, edited under its mask, and the distance map to patches of normals.

    The map runs from black (as in normal images) to white (twice the limit, or more); without a
    patch bank it is grey. Returns one (H, W, 3) uint8 RGB image with labels.
    """
    import cv2

    shard, row = found.shown.shard, found.shown.row
    edited_HW3 = shard.edited(row)
    images = [shard.original(shard.source(row)), edited_HW3, overlay(edited_HW3, shard.mask(row))]
    # The patch bank was learned without this image.
    bank, limit = explained.normal_model.patches, explained.normal_model.limits.max_patch_distance
    if bank is None:
        heat_HW3 = np.full_like(edited_HW3, 128)
    else:
        map_HW = bank.distance_map(edited_HW3)
        # Scaled by the limit, so that images of several samples can be compared.
        top = 2 * limit if limit else float(map_HW.max()) or 1.0
        levels_HW = np.clip(255 * map_HW / top, 0, 255).astype(np.uint8)
        # OpenCV colours are BGR.
        heat_HW3 = cv2.applyColorMap(levels_HW, cv2.COLORMAP_INFERNO)[..., ::-1]
    labels = ["original", f"edited: {found.shown.record['kind']}", "change mask", "distance"]
    return side_by_side([*images, heat_HW3], labels)


def _sample(shown: StoredSample) -> Sample:
    """A stored sample as the gate gets it."""
    shard, row = shown.shard, shown.row
    edit = Edit.from_json(shown.record["edit"])
    return Sample(edit, shard.edited(row), shard.mask(row), shard.object_mask(row))


def _earlier(found: FoundSample) -> list[Sample]:
    """The accepted samples of the same image and kind before this one, for the duplicate check."""
    record = found.shown.record
    own = (record["source"]["name"], record["kind"])
    # The order of numbers is that of generation.
    earlier = []
    for shard in found.version.shards:
        for j in range(shard.samples):
            other = shard.record(j)
            same = (other["source"]["name"], other["kind"]) == own
            if same and other["number"] < record["number"]:
                earlier.append(_sample(StoredSample(shard, j, other)))
    return earlier


def _differs(recorded: dict[str, float], measured: dict[str, float]) -> dict[str, Any]:
    """Scores that differ from the recorded ones, with both values."""
    return {
        name: {"recorded": recorded[name], "measured": measured[name]}
        for name in sorted(set(recorded) & set(measured))
        if abs(recorded[name] - measured[name]) > SAME * max(1.0, abs(recorded[name]))
    }


def _notes(found: FoundSample, broken: dict[str, Any] | None) -> list[str]:
    """Why the present verdict may differ from the recorded one."""
    recorded = found.shown.record
    notes = []
    if recorded["accepted"] and broken:
        notes.append("it was accepted; the failed check was added or changed in a later release")
    if not recorded["accepted"] and not broken:
        notes.append(
            f"every check of the gate passes now; {recorded['reason']!r} came from the rule book "
            "or from another release"
        )
    if "limits" not in found.version.index:
        notes.append("the version has no calibrated limits; they were learned from it just now")
    return notes
