"""The models and the device of a run, as `doctor` reports them: found, intact and, on request, run.

Found and intact are read from files and from the operating system, within milliseconds. Whether the
models really run here is known only by running them, see `rehearse`.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import CategorySettings
from pipeline.errors import AnomalysmithError, UserError
from pipeline.imaging.decode import load_image
from pipeline.models import hardware
from pipeline.utils.names import text_of


@dataclass(frozen=True, slots=True)
class WeightsHealth:
    """One model file of the registry; `path` is empty when it is missing."""

    name: str
    stage: str
    path: str
    megabytes: float
    licence: str
    get: str


def chosen_models(settings: CategorySettings, missing: list[str]) -> dict[str, str]:
    """Stage -> backend and file, as a run would choose them; empty when a model is missing."""
    from pipeline.models import build as models

    try:
        # Raises for weights that are missing, and for licences that the policy forbids.
        files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    except UserError as error:
        missing.append(str(error))
        return {}
    return {
        stage: f"{backend} ({path})" if path else backend
        for stage, (backend, path) in files.used().items()
    }


def weights_health(missing: list[str]) -> tuple[WeightsHealth, ...]:
    """Every entry of the registry, and whether its file is present and intact."""
    from pipeline.models.weights import store as weights

    found = []
    for entry in weights.entries():
        path = weights.find(entry.name)
        # Bundled files have published checksums: a damaged checkout is found here.
        if entry.bundled and path:
            try:
                weights.check(entry.name, path)
            except AnomalysmithError as error:
                missing.append(str(error))
        found.append(
            WeightsHealth(
                entry.name, entry.stage, str(path or ""), entry.megabytes, entry.licence, entry.get
            )
        )
    return tuple(found)


def device_in_words(device: str, precision: str, missing: list[str]) -> str:
    """The device that a run would take, by what the system shows; PyTorch is not imported.

    `device` is `auto|cpu|cuda`, `precision` `auto|fp32|bf16`. A GPU is only named: whether PyTorch
    can use it is known once PyTorch has tried.
    """
    gpus = () if device == "cpu" else hardware.nvidia_gpus()
    if gpus:
        return f"{', '.join(gpus)} by the driver; `doctor --deep` asks PyTorch"
    if device == "cuda":
        missing.append(
            "device 'cuda' was requested, but this system shows no NVIDIA GPU; use device: cpu or "
            "auto, or check the driver"
        )
        return "cuda: not available"
    reduced = precision == "bf16" or (precision == "auto" and hardware.multiplies_bf16())
    return f"CPU, {'bfloat16' if reduced else 'float32'}"


def asked_device(device: str, precision: str, missing: list[str]) -> str:
    """The device that PyTorch takes; what `device_in_words` could only read off."""
    from pipeline.models import device as devices

    try:
        return devices.choose(device, precision).describe()
    except UserError as error:
        missing.append(str(error))
        return f"{device}: not available"


def rehearse(settings: CategorySettings, image: Path, missing: list[str]) -> str:
    """Load the models of a category and run them on one of its images; what came out, in words."""
    from pipeline.models import build as models

    name = text_of(image.name)
    try:
        started = time.perf_counter()
        files = models.resolve(settings.models, settings.policy.allow_noncommercial)
        loaded = models.load(settings.models, settings.proposals, files)
        ready = time.perf_counter()
        image_HW3 = load_image(image, settings.image_size)
        found = loaded.analyse(image_HW3)
        # The largest object is removed; without any, the product itself.
        found_NHW = found.proposals.masks_NHW
        masks_NHW = found_NHW if len(found_NHW) else found.foreground.mask_HW[None]
        loaded.inpaint(image_HW3, masks_NHW[masks_NHW.sum((1, 2)).argmax()])
        done = time.perf_counter()
    # Whatever the libraries raise: that it does not run is the finding.
    except Exception as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        missing.append(f"{settings.name}: the models do not run here: {said}")
        return "failed"
    return (
        f"{name}: {len(found_NHW)} objects found and one removed in {done - ready:.1f} s, models "
        f"loaded in {ready - started:.1f} s"
    )
