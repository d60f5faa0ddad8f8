"""`verify --regenerate N`: make samples again from their lineage and compare every pixel.

From the stored original on everything is done anew: foreground, proposals, the edit from its seed,
the sample. The models are those that the index names, and their files must have the digests stated
there; they run on the class of device and in the number format that the version was made with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.version import Version, open_version
from pipeline.edits.apply import apply
from pipeline.edits.context import ImageContext
from pipeline.edits.plan import plan
from pipeline.edits.settings import EditSettings
from pipeline.errors import UserError
from pipeline.generation.cache_keys import software
from pipeline.generation.stored_images import StoredImages
from pipeline.models import build as models
from pipeline.models import device as devices
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.models.weights import store as weights
from pipeline.records import Edit

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
"""How a version names the number format, and what the settings call it."""
REMOTE = "remote:"
"""How the name of a server's model begins, where a version lists what it was made with."""


def regenerate(folder: Path, wanted: int) -> tuple[int, list[str]]:
    """Make `wanted` samples again, spread over the version; how many, and what differed.

    UserError when this machine cannot: another weights file, or no device of the class of then.
    """
    version = open_version(folder)
    rows = [(shard, j) for shard in version.shards for j in range(shard.samples)]
    if not rows:
        return 0, []
    devices.one_thread()
    made_by, images = models_of(version), StoredImages(version)
    picks = np.unique(np.linspace(0, len(rows) - 1, wanted).astype(int))
    differ = []
    for shard, j in (rows[pick] for pick in picks):
        difference = _difference(images, shard, j, made_by)
        if difference:
            differ.append(
                f"{shard.record(j)['id']}: made again, {difference}; "
                f"{_otherwise(version.index['software'], made_by.compute)}"
            )
    return len(picks), differ


def _difference(images: StoredImages, shard: Any, j: int, made_by: models.Models) -> str:
    """What differs when sample `j` of a shard is made again, or nothing."""
    record, source = shard.record(j), shard.source(j)
    original_HW3 = shard.original(source)
    foreground = made_by.foreground(original_HW3)
    if not np.array_equal(foreground.mask_HW, shard.foreground(source)):
        return "the foreground differs"
    proposals = made_by.proposals(original_HW3, foreground)
    if not np.array_equal(proposals.masks_NHW, shard.proposals(source)[0]):
        return "the proposals differ"
    settings = EditSettings.model_validate(images.version.index["settings"]["edits"])
    rng = np.random.default_rng(record["seed"])
    donors = images.donors(record["source"]["name"])
    context = ImageContext(original_HW3, proposals, made_by.inpaint, made_by.fill, donors)
    edit = plan(context, rng, settings, record["kind"])
    if edit is None or edit.to_json() != Edit.from_json(record["edit"]).to_json():
        failed = len(images.version.index["failures"])
        lost = f" ({failed} images failed then; one may have lent parts)" if failed else ""
        return f"the edit that its seed leads to differs{lost}"
    sample = apply(edit, context)
    if not np.array_equal(sample.change_HW, shard.mask(j)):
        return "the change mask differs"
    count = int((sample.pixels_HW3 != shard.edited(j)).any(2).sum())
    return f"{count} pixels differ" if count else ""


def _otherwise(then: Mapping[str, str], compute: str) -> str:
    """What is not as it was when the version was made, in words."""
    now = software() | {"compute": compute}
    changed = [
        f"{name} was {then[name]}, is {now.get(name, 'absent')}"
        for name in sorted(then)
        if then[name] != now.get(name)
    ]
    if then.get("compute") == "CPU, bfloat16" and not devices.multiplies_bf16():
        changed.append("bfloat16 may have been multiplied in hardware then, which this CPU cannot")
    return "; ".join(changed) or "the libraries and the kind of device are those of then"


def models_of(version: Version) -> models.Models:
    """The models that the index names, after a look at their digests."""
    stated: dict[str, str] = version.index["weights"]
    settings: dict[str, Any] = dict(version.index["settings"]["models"])
    for name, digest in stated.items():
        stage, _, backend = name.partition("/")
        if backend.startswith(REMOTE):
            raise UserError(
                f"cannot make samples again: {stage} was done by a server ({backend}), and what it "
                "runs today is not known here; compare with a version made by it again"
            )
        path = _file_with(digest, backend, (settings.get(stage) or {}).get("weights"))
        of_then = dict(settings.get(stage) or {})
        settings[stage] = of_then | {"backend": backend, "weights": str(path) if path else None}
    chosen = _computed_as(
        ModelSettings.model_validate(settings), version.index["software"].get("compute", "")
    )
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


def _file_with(digest: str, backend: str, named: str | None) -> Path | None:
    """The weights file with that SHA-256: the one that the manifest named, or any of that name."""
    entry = (models.FOREGROUND | models.PROPOSALS | models.INPAINT | models.FILL).get(backend)
    places = [Path(named)] if named else []
    if entry:
        file = weights.entry(entry).file
        places += [folder / file for folder in (*weights.folders(), weights.BUNDLED)]
    return next((p for p in places if p.exists() and weights.sha256(p) == digest), None)


def _computed_as(settings: ModelSettings, compute: str) -> ModelSettings:
    """The settings with the device class and number format of `compute`, as in `CPU, bfloat16`.

    `auto` would settle for what this machine runs fastest, and other rounding makes other masks.
    """
    device, _, number_format = compute.rpartition(", ")
    if number_format not in PRECISIONS:
        raise UserError(
            "cannot make samples again: the version does not say on which device it was made "
            f"(software.compute is {compute!r})"
        )
    on_cpu = device == "CPU"
    if not on_cpu and devices.choose().device.type != "cuda":
        raise UserError(
            f"cannot make samples again: they were made on {device}, and this machine has no CUDA "
            "device; run verify --regenerate on one that has"
        )
    # On CUDA the device stays `auto`: naming it would also demand the GPU build of onnxruntime.
    return settings.model_copy(
        update={"device": "cpu" if on_cpu else "auto", "precision": PRECISIONS[number_format]}
    )
