"""`verify --regenerate N`: make samples again from their lineage and compare every pixel.

From the stored original on everything is done anew: foreground, proposals, edit. The models are
those that the index names, and their files must have the digests stated there.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline import compose, devices, models
from pipeline.errors import UserError
from pipeline.records import Edit
from pipeline.settings import ModelSettings, ProposalSettings
from pipeline.versions import Version, open_version


def regenerate(folder: Path, wanted: int) -> tuple[int, list[str]]:
    """Make `wanted` samples again, spread over the version; how many, and what differed."""
    version = open_version(folder)
    rows = [(shard, j) for shard in version.shards for j in range(shard.samples)]
    if not rows:
        return 0, []
    devices.one_thread()
    made_by = _models(version)
    picks = np.unique(np.linspace(0, len(rows) - 1, wanted).astype(int))
    differ = []
    for shard, j in (rows[pick] for pick in picks):
        record, source = shard.record(j), shard.source(j)
        original_HW3 = shard.original(source)
        foreground = made_by.foreground(original_HW3)
        proposals = made_by.proposals(original_HW3, foreground)
        if not np.array_equal(foreground.mask_HW, shard.foreground(source)):
            difference = "the foreground differs"
        elif not np.array_equal(proposals.masks_NHW, shard.proposals(source)[0]):
            difference = "the proposals differ"
        else:
            edit = Edit.from_json(record["edit"])
            sample = compose.apply(edit, original_HW3, proposals, made_by.inpaint)
            count = int((sample.pixels_HW3 != shard.edited(j)).any(2).sum())
            difference = f"{count} pixels differ" if count else ""
        if difference:
            differ.append(
                f"{record['id']}: made again, {difference}; other software, another kind of "
                f"device, or a wrong lineage (made with {version.index['software']})"
            )
    return len(picks), differ


def _models(version: Version) -> models.Models:
    """The models that the index names, after a look at their digests."""
    stated: dict[str, str] = version.index["weights"]
    settings: dict[str, Any] = dict(version.index["settings"]["models"])
    for name in stated:
        stage, _, backend = name.partition("/")
        settings[stage] = {"backend": backend}
    chosen = ModelSettings.model_validate(settings)
    files = models.resolve(chosen)
    found = files.digests()
    for name, digest in stated.items():
        if found.get(name) != digest:
            raise UserError(
                f"cannot make samples again: {name} was {digest[:12]}…, here it is "
                f"{found.get(name, 'absent')[:12]}…; put the file of then into a folder and name "
                "that folder in ANOMALYSMITH_WEIGHTS"
            )
    proposals = ProposalSettings.model_validate(version.index["settings"]["proposals"])
    return models.load(chosen, proposals, files)
