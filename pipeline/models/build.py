"""The one place that assembles the models from settings and weights files.

One model is resident per stage: the same settings and files give the same objects, in any thread.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, WeightsError
from pipeline.models.inpaint.base import Filler, Inpainter
from pipeline.models.settings import MODEL_STAGES, ModelSettings, ProposalSettings
from pipeline.models.weights import store as weights

# backend name in the manifest -> entry of the weights registry, best first
FOREGROUND = {"u2net": "u2net", "u2netp": "u2netp", "bundled": "bundled-u2netp"}
PROPOSALS = {
    "vit_h": "sam-vit-h", "vit_l": "sam-vit-l", "vit_b": "sam-vit-b", "small": "bundled-sam",
}  # fmt: skip
INPAINT = {"lama": "big-lama", "small_lama": "bundled-lama"}
FILL = {"diffusers": "sd-inpainting"}

# Lowest predicted IoU, stability and share of the largest piece: segment-anything's own (and a
# strict share) for its checkpoints; the small SAM's were chosen on rendered scenes that neither
# trained nor measured it (weights/small_sam.md). It leaves specks, which are cut off.
QUALITY = {"small": (0.50, 0.75, 0.60)}
OFFICIAL_QUALITY = (0.88, 0.95, 0.90)
FULL_SAM_BATCH, SMALL_SAM_BATCH = 8, 64


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Which file each stage reads: `(backend, path or None)`; OpenCV needs no file.

    `fill` reads a folder, or is `none`. A server's backend is `remote:API:MODEL`: its name is all
    that can be known of it.
    """

    foreground: tuple[str, Path]
    proposals: tuple[str, Path]
    inpaint: tuple[str, Path | None]
    fill: tuple[str, Path | None] = ("none", None)

    def used(self) -> dict[str, tuple[str, Path | None]]:
        """Stage -> `(backend, path or None)`, without `fill` where there is none."""
        found = {stage: getattr(self, stage) for stage in MODEL_STAGES}
        return {stage: file for stage, file in found.items() if file[0] != "none"}

    def digests(self) -> dict[str, str]:
        """SHA-256 per stage, `stage/backend` as key; what the dataset's lineage names."""
        return {
            f"{stage}/{backend}": weights.sha256(path) if path else "none"
            for stage, (backend, path) in self.used().items()
        }


@dataclass(frozen=True, slots=True)
class Models:
    """The callables and what they are made of; `fill` is None where no model fills."""

    foreground: Any
    proposals: Any
    inpaint: Inpainter
    files: ModelFiles
    compute: str
    fill: Filler | None = None


def resolve(settings: ModelSettings, allow_noncommercial: bool = True) -> ModelFiles:
    """Find the files that the settings ask for; `auto` takes the best one present.

    A server that the settings name is asked for its model.
    """
    return ModelFiles(
        _pick(settings.foreground, FOREGROUND, allow_noncommercial),
        _pick(settings.proposals, PROPOSALS, allow_noncommercial),
        _pick_inpaint(settings, allow_noncommercial),
        _pick_fill(settings, allow_noncommercial),
    )


def load(settings: ModelSettings, proposals: ProposalSettings, files: ModelFiles) -> Models:
    """Build the models; the same arguments give the same resident models, in any thread."""
    with _LOADING:
        return _load(settings, proposals, files)


_LOADING = threading.Lock()


@lru_cache(maxsize=2)
def _load(settings: ModelSettings, proposals: ProposalSettings, files: ModelFiles) -> Models:
    from pipeline.models import device as devices
    from pipeline.models.foreground import U2NetForeground
    from pipeline.models.proposals import SamProposals

    devices.one_thread()
    compute = devices.choose(settings.device, settings.precision)
    backend, path = files.proposals
    quality = QUALITY.get(backend, OFFICIAL_QUALITY)
    small = backend == "small" or compute.device.type == "cuda"
    return Models(
        foreground=U2NetForeground(files.foreground[1], cuda=_onnx_on_cuda(settings, compute)),
        proposals=SamProposals(
            _sam(backend, path),
            with_quality(proposals, quality),
            compute,
            SMALL_SAM_BATCH if small else FULL_SAM_BATCH,
        ),
        inpaint=_inpainter(*files.inpaint, settings, compute),
        files=files,
        compute=compute.describe(),
        fill=_filler(*files.fill, settings, compute),
    )


def _onnx_on_cuda(settings: ModelSettings, compute: Any) -> bool:
    """Whether the foreground runs on the GPU too; `auto` keeps it on the CPU where onnxruntime
    is the CPU build, an explicit `cuda` asks for it and is answered with an error."""
    if compute.device.type != "cuda":
        return False
    import onnxruntime

    return settings.device == "cuda" or "CUDAExecutionProvider" in (
        onnxruntime.get_available_providers()
    )


def with_quality(
    settings: ProposalSettings, quality: tuple[float, float, float]
) -> ProposalSettings:
    """The settings with the backend's own thresholds where the user named none."""
    names = ("min_predicted_iou", "min_stability", "min_component")
    defaults = dict(zip(names, quality, strict=True))
    return settings.model_copy(
        update={k: v for k, v in defaults.items() if getattr(settings, k) is None}
    )


def _pick(stage: Any, names: Mapping[str, str], allow_noncommercial: bool) -> tuple[str, Path]:
    explicit = Path(stage.weights) if stage.weights else None
    if stage.backend != "auto":
        backend = stage.backend
    elif explicit is not None:
        backend = _backend_of(explicit, names)
    else:
        backend = next(b for b, entry in names.items() if weights.find(entry) or _last(b, names))
    return backend, weights.require(names[backend], explicit, allow_noncommercial)


def _pick_inpaint(settings: ModelSettings, allow_noncommercial: bool) -> tuple[str, Path | None]:
    backend = settings.inpaint.backend
    if backend in ("telea", "ns"):
        return backend, None
    if backend == "remote":
        from pipeline.models.inpaint.remote import server_model

        return f"remote:{settings.inpaint.api}:{server_model(settings.inpaint)}", None
    if backend == "lama_cleaner":  # reads the same files as our own adapter
        same = settings.inpaint.model_copy(update={"backend": "auto"})
        return backend, _pick(same, INPAINT, allow_noncommercial)[1]
    return _pick(settings.inpaint, INPAINT, allow_noncommercial)


def _pick_fill(settings: ModelSettings, allow_noncommercial: bool) -> tuple[str, Path | None]:
    if settings.fill.backend == "none":
        return "none", None
    from pipeline.models.inpaint.diffusers_folder import (
        check_folder,
        forbids_commerce,
        stated_licence,
    )

    backend, path = _pick(settings.fill, FILL, allow_noncommercial)
    licence = stated_licence(path)
    if forbids_commerce(licence) and not allow_noncommercial:
        raise WeightsError(
            f"{path} is under {licence!r} by its own README.md, and the manifest forbids "
            "non-commercial licences; take another folder or set licence.allow_noncommercial: true"
        )
    check_folder(path)
    return backend, path


def _backend_of(path: Path, names: Mapping[str, str]) -> str:
    """The backend whose official file has this name; a file of the user's own is asked about."""
    if names is INPAINT:  # every LaMa file has the same signature
        return next(iter(names))
    for backend, entry in names.items():
        if weights.entry(entry).file == path.name:
            return backend
    raise UserError(
        f"cannot tell which model {path} holds; set the stage's backend to one of {list(names)}"
    )


def _last(backend: str, names: Mapping[str, str]) -> bool:
    return backend == list(names)[-1]


def _sam(backend: str, path: Path) -> Any:
    if backend == "small":
        from pipeline.models.small_sam.build import small_sam

        return small_sam(path)
    from segment_anything import sam_model_registry

    from pipeline.models.weights.safe_load import filled

    # Not the registry's own loader: that one would unpickle whatever the file holds.
    return filled(sam_model_registry[backend], path)


def _inpainter(backend: str, path: Path | None, settings: ModelSettings, compute: Any) -> Inpainter:
    from pipeline.models.inpaint import base as inpaint

    if backend in inpaint.OPENCV_METHODS:
        return inpaint.OpenCvInpainter(backend)
    if backend.startswith("remote:"):
        from pipeline.models.inpaint.remote import RemoteInpainter

        return RemoteInpainter(settings.inpaint, model=backend.split(":", 2)[2])
    assert path is not None
    if backend == "lama_cleaner":
        from pipeline.models.inpaint.lama_cleaner import LamaCleanerInpainter

        return LamaCleanerInpainter(path, compute)
    from pipeline.models.inpaint.lama import TorchScriptLama

    return TorchScriptLama(path, compute)


def _filler(
    backend: str, path: Path | None, settings: ModelSettings, compute: Any
) -> Filler | None:
    if backend == "none":
        return None
    from pipeline.models.inpaint.diffusion import DiffusionFiller

    assert path is not None
    return DiffusionFiller(path, settings.fill, compute)
