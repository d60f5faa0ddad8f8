"""`verify --regenerate N`: generate samples again from their lineage and compare every pixel.

Everything after the stored original is computed again: foreground, proposals, the edit from its
seed, the sample. The models are those that the index names, and their files must have the digests
stated there. They run on the class of device and with the dtype that the version was made with.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.version import Version, open_version
from pipeline.edits.apply import apply, as_planned
from pipeline.edits.context import ImageContext
from pipeline.edits.plan import plan
from pipeline.edits.settings import EditSettings
from pipeline.errors import UserError
from pipeline.generation.asked import with_missing_parts
from pipeline.generation.cache_keys import software
from pipeline.generation.stored_images import StoredImages
from pipeline.models import build as models
from pipeline.models import device as devices
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.models.weights import store as weights
from pipeline.part_kinds.kinds import PartKinds
from pipeline.records import Edit

# The dtype as a version names it -> the value of `precision` in the settings.
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
# Prefix of the names of models that ran on a server, in the weights of an index.
REMOTE = "remote:"


def regenerate(folder: Path, wanted: int) -> tuple[int, list[str]]:
    """Generate `wanted` samples again, spread over the version.

    Returns how many samples were generated, and one line for each that differs. Raises UserError
    when this machine lacks a weights file or the class of device that the version was made with.
    """
    # All samples of the version as (shard, row), but for those with another category's product,
    # whose image the version does not hold.
    version = open_version(folder)
    rows = [
        (shard, j)
        for shard in version.shards
        for j in range(shard.samples)
        if not _from_elsewhere(shard.record(j)["edit"])
    ]
    if not rows:
        return 0, []
    # As in a run: sums split over threads round differently.
    devices.one_thread()
    made_by = models_of(version)
    images = StoredImages(version, made_by.embed)
    settings = EditSettings.model_validate(version.index["settings"]["edits"])
    # Plans depend on what is normal in the category.
    kinds = images.part_kinds() if settings.uses_part_kinds else None
    # Evenly spread; fewer than wanted where the version has fewer samples.
    picks = np.unique(np.linspace(0, len(rows) - 1, wanted).astype(int))
    differ = []
    for shard, j in (rows[pick] for pick in picks):
        difference = _difference(images, shard, j, made_by, settings, kinds)
        if difference:
            differ.append(
                f"{shard.record(j)['id']}: regenerated, {difference}; "
                f"{_environment_changes(version.index['software'], made_by.compute)}"
            )
    return len(picks), differ


def _from_elsewhere(edit: Mapping[str, Any]) -> bool:
    """True for an edit that pastes another category's product."""
    donors = (part.parameters.get("donor", {}) for part in Edit.from_json(edit).parts)
    return any(donor.get("category") for donor in donors)


def _difference(
    images: StoredImages,
    shard: Any,
    j: int,
    made_by: models.Models,
    settings: EditSettings,
    kinds: PartKinds | None,
) -> str:
    """What differs first when sample `j` of a shard is generated again; "" when it is equal."""
    record, source = shard.record(j), shard.source(j)
    original_HW3 = shard.original(source)
    # Stage by stage, so that the answer names the first one that differs.
    found = made_by.analyse(original_HW3)
    if kinds is not None:
        found = with_missing_parts(made_by, kinds, original_HW3, found)
    proposals = found.proposals
    if not np.array_equal(found.foreground.mask_HW, shard.foreground(source)):
        return "the foreground differs"
    if not np.array_equal(proposals.masks_NHW, shard.proposals(source)[0]):
        return "the proposals differ"
    # The same settings, seed and donors must lead to the same edit.
    rng = np.random.default_rng(record["seed"])
    donors = images.donors(record["source"]["name"])
    context = ImageContext(
        original_HW3, proposals, made_by.inpaint, made_by.fill, donors, kinds,
        settings.uses_part_kinds,
    )  # fmt: skip
    edit = plan(context, rng, settings, record["kind"])
    recorded = Edit.from_json(record["edit"])
    if edit is None or edit.to_json() != as_planned(recorded).to_json():
        failed = len(images.version.index["failures"])
        # Failed images are not in the version, so their objects cannot be pasted again.
        lost = f" ({failed} images failed in that run; one may be a donor)" if failed else ""
        return f"the edit planned from its seed differs{lost}"
    # And the same edit to the same pixels.
    # The recorded one: it names the inpainter that was nearest to the normal images of that run.
    sample = apply(recorded, context)
    if not np.array_equal(sample.change_HW, shard.mask(j)):
        return "the change mask differs"
    count = int((sample.pixels_HW3 != shard.edited(j)).any(2).sum())
    return f"{count} pixels differ" if count else ""


def _environment_changes(made_with: Mapping[str, str], compute: str) -> str:
    """What is different from when the version was made, in words."""
    # As `software` in an index: libraries, then the device.
    now = software() | {"compute": compute}
    changed = [
        f"{name} was {made_with[name]}, is {now.get(name, 'absent')}"
        for name in sorted(made_with)
        if made_with[name] != now.get(name)
    ]
    if made_with.get("compute") == "CPU, bfloat16" and not devices.multiplies_bf16():
        changed.append("that CPU may have multiplied bfloat16 in hardware, which this one cannot")
    return "; ".join(changed) or "libraries and kind of device are the same"


def models_of(version: Version) -> models.Models:
    """Load the models that the index names.

    Raises UserError where a model ran on a server, or no file with the stated digest is found.
    """
    stated: dict[str, str] = version.index["weights"]
    settings: dict[str, Any] = dict(version.index["settings"]["models"])
    # An index with two networks for the foreground: the better one first, as `auto` does.
    networks = [backend for backend in models.FOREGROUND if f"foreground/{backend}" in stated]
    second: dict[str, Any] = {}
    for name, digest in stated.items():
        stage, _, backend = name.partition("/")
        if backend.startswith(REMOTE):
            raise UserError(
                f"cannot regenerate samples: {stage} ran on a server ({backend}), whose present "
                "model is unknown; generate another version with it and compare the two"
            )
        path = _file_with(digest, backend, (settings.get(stage) or {}).get("weights"))
        if stage == "foreground" and backend != networks[0]:
            second = {"second_foreground": (backend, path)}
            continue
        recorded = dict(settings.get(stage) or {})
        settings[stage] = recorded | {"backend": backend, "weights": str(path) if path else None}
    chosen = _computed_as(
        ModelSettings.model_validate(settings), version.index["software"].get("compute", "")
    )
    files = replace(models.resolve(chosen), **second)
    found = files.digests()
    for name, digest in stated.items():
        if found.get(name) != digest:
            raise UserError(
                f"cannot regenerate samples: expected {name} {digest[:12]}…, found "
                f"{found.get(name, 'absent')[:12]}…; put the original file into a folder and name "
                "that folder in ANOMALYSMITH_WEIGHTS"
            )
    proposals = ProposalSettings.model_validate(version.index["settings"]["proposals"])
    return models.load(chosen, proposals, files)


def _file_with(digest: str, backend: str, named: str | None) -> Path | None:
    """The weights file with that SHA-256: `named` by the manifest, or in any weights folder."""
    # Backends with a registry entry may lie in any weights folder.
    entry = (models.FOREGROUND | models.PROPOSALS | models.INPAINT | models.FILL).get(backend)
    places = [Path(named)] if named else []
    if entry:
        file = weights.entry(entry).file
        places += [folder / file for folder in (*weights.folders(), weights.BUNDLED)]
    return next((p for p in places if p.exists() and weights.sha256(p) == digest), None)


def _computed_as(settings: ModelSettings, compute: str) -> ModelSettings:
    """The settings with the device class and dtype of `compute`, such as `CPU, bfloat16`.

    `auto` would choose what this machine runs fastest, and other rounding gives other masks.
    """
    # Such as "NVIDIA H200, bfloat16".
    device, _, dtype = compute.rpartition(", ")
    if dtype not in PRECISIONS:
        raise UserError(
            "cannot regenerate samples: the version does not say on which device it was made "
            f"(software.compute is {compute!r})"
        )
    # Any CUDA device will do: another model of GPU may round differently, which is then reported.
    on_cpu = device == "CPU"
    if not on_cpu and devices.choose().device.type != "cuda":
        raise UserError(
            f"cannot regenerate samples: they were made on {device}, and this machine has no CUDA "
            "device; run `verify --regenerate` on one that has"
        )
    # On CUDA the device stays `auto`: naming it would also demand the GPU build of onnxruntime.
    return settings.model_copy(
        update={"device": "cpu" if on_cpu else "auto", "precision": PRECISIONS[dtype]}
    )
