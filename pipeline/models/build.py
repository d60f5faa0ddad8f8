"""Settings + weight files -> resident models. The one place that assembles models.

    files = resolve(settings.models)                            # which file each stage reads
    models = load(settings.models, settings.proposals, files)   # built once, then shared
    foreground = models.foreground(image_HW3)
    proposals = models.proposals(image_HW3, foreground)

Each model receives its file, its settings and its device; none of them looks anything up.
"""

from pipeline import environment as _environment  # noqa: F401  isort: skip  first: no telemetry

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError, WeightsError
from pipeline.models.settings import (
    MODEL_STAGES,
    FillBackend,
    ForegroundBackend,
    InpaintBackend,
    ModelSettings,
    ProposalSettings,
)
from pipeline.models.weights import store as weights
from pipeline.records import Analysis
from pipeline.utils.free_memory import give_back

if TYPE_CHECKING:
    from pipeline.models.inpaint.base import Filler, Inpainter

# Backend of the manifest -> entry of the weights registry. The best one comes first: `auto` takes
# the first whose file is found, and the last one is bundled.
FOREGROUND = {"u2net": "u2net", "u2netp": "u2netp", "bundled": "bundled-u2netp"}
PROPOSALS = {
    "vit_h": "sam-vit-h", "vit_l": "sam-vit-l", "vit_b": "sam-vit-b", "small": "bundled-sam",
}  # fmt: skip
# `candidates` is PatchMatch and the small LaMa; the file is that of the network.
INPAINT = {"lama": "big-lama", "candidates": "bundled-lama", "small_lama": "bundled-lama"}
FILL = {"diffusers": "sd-inpainting"}
FEATURES = {"lite0": "efficientnet-lite0", "bundled": "bundled-teacher"}

# Thresholds of the proposals: lowest predicted IoU, lowest stability, lowest share of the mask in
# its largest component. For the official checkpoints the first two are segment-anything's defaults
# (the third is strict). Those of the small SAM were tuned on rendered scenes that were used neither
# to train nor to evaluate it (weights/small_sam.md). It leaves specks, which are cut off.
OFFICIAL_QUALITY = (0.88, 0.95, 0.90)
QUALITY = {"small": (0.50, 0.60, 0.60)}

# Point prompts per decoder call. An official SAM on the CPU gets the smaller batch.
FULL_SAM_BATCH, SMALL_SAM_BATCH = 8, 64


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The file that each stage reads: `(backend, path or None)`; OpenCV reads none.

    `fill` has a folder, or is `none`. The backend of a server is `remote:API:MODEL`, because the
    name of its model is all that is known about it.
    """

    foreground: tuple[str, Path]
    proposals: tuple[str, Path]
    inpaint: tuple[str, Path | None]
    features: tuple[str, Path]
    fill: tuple[str, Path | None] = ("none", None)
    # Asked where the foreground is in doubt; only `auto` has one.
    second_foreground: tuple[str, Path | None] = ("none", None)

    def used(self) -> dict[str, tuple[str, Path | None]]:
        """Stage -> `(backend, path or None)`, without `fill` where there is none."""
        found = {stage: getattr(self, stage) for stage in (*MODEL_STAGES, "second_foreground")}
        return {stage: file for stage, file in found.items() if file[0] != "none"}

    def digests(self) -> dict[str, str]:
        """`stage/backend` -> SHA-256 of its file, for the lineage of a dataset.

        Both networks of the foreground belong to its stage.
        """
        return {
            f"{stage.removeprefix('second_')}/{backend}": weights.sha256(path) if path else "none"
            for stage, (backend, path) in self.used().items()
        }


@dataclass(frozen=True, slots=True)
class Models:
    """The models of all stages as callables; `fill` is None without a diffusion model.

    `compute` is the device and precision in words, as the lineage records it.
    """

    foreground: Any
    proposals: Any
    inpaint: "Inpainter"
    files: ModelFiles
    compute: str
    # (image_HW3, masks_NHW) -> (N, C) vectors, see `part_embedding.Embedder`.
    embed: Any
    fill: "Filler | None" = None

    def analyse(self, image_HW3: np.ndarray) -> Analysis:
        """Foreground and proposals of an image (uint8 RGB); those for edits with embeddings."""
        # Proposals are searched inside the foreground only.
        foreground = self.foreground(image_HW3)
        proposals, soft = self.proposals.with_parts(image_HW3, foreground)
        # By these part kinds are told apart, here and where the image is a donor.
        vectors_NC = self.embed(image_HW3, proposals.masks_NHW)
        return Analysis(foreground, replace(proposals, vectors_NC=vectors_NC), soft)


def resolve(settings: ModelSettings, allow_noncommercial: bool = True) -> ModelFiles:
    """Find the weight files for the settings; `auto` takes the best backend that is present.

    Raises WeightsError when a file is missing, wrong or forbidden by its licence. A server in the
    settings is queried for the name of its model.
    """
    foreground = _find_file(settings.foreground, FOREGROUND, allow_noncommercial)
    return ModelFiles(
        foreground,
        _find_file(settings.proposals, PROPOSALS, allow_noncommercial),
        _find_inpaint(settings.inpaint, allow_noncommercial),
        _find_file(settings.features, FEATURES, allow_noncommercial),
        _find_fill(settings.fill, allow_noncommercial),
        _second_foreground(settings.foreground, foreground[0], allow_noncommercial),
    )


def load(
    settings: ModelSettings | None = None,
    proposals: ProposalSettings | None = None,
    files: ModelFiles | None = None,
) -> Models:
    """The resident models: equal arguments give the same objects, in any thread.

    Without `files` the best weights of this machine are taken, see `resolve`.
    """
    settings, proposals = settings or ModelSettings(), proposals or ProposalSettings()
    files = files or resolve(settings)
    # Without the lock, threads that start together would each load the models.
    with _LOADING:
        return _resident(settings, proposals, files)


def build_models(settings: ModelSettings, proposals: ProposalSettings, files: ModelFiles) -> Models:
    """Build the models of all stages on the device of the settings."""
    from pipeline.models import device

    device.one_thread()
    compute = device.choose(settings.device, settings.precision)
    models = Models(
        foreground=build_foreground(files, settings.device, compute),
        proposals=build_proposals(*files.proposals, proposals, compute),
        inpaint=build_inpainter(*files.inpaint, settings.inpaint, compute),
        files=files,
        compute=compute.describe(),
        fill=build_filler(files.fill[1], settings.fill, compute),
        embed=build_embedder(*files.features),
    )
    # Files, graphs and float32 copies of weights were held while they were read.
    give_back()
    return models


# Two sets of models stay in memory; a third one replaces the set that was used least recently.
_resident = lru_cache(maxsize=2)(build_models)
_LOADING = threading.Lock()


def forget() -> None:
    """Let go of the resident models; the next `load` reads them again."""
    with _LOADING:
        _resident.cache_clear()


def build_foreground(files: ModelFiles, device: str, compute: Any) -> Any:
    """One U²-Net, or the clearer of two, whose mask ends at the product on a repeating background.

    `device` is the setting `auto`, `cpu` or `cuda`."""
    from pipeline.models.foreground import ClearerForeground, U2NetForeground
    from pipeline.models.pattern_foreground import PatternForeground

    cuda = compute.device.type == "cuda"
    if cuda and device != "cuda":
        import onnxruntime

        # Torch may have CUDA where onnxruntime is the CPU build. `auto` then keeps the foreground
        # on the CPU; with an explicit `cuda`, U2NetForeground raises an error.
        cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    backend, path = files.foreground
    reduced = compute.device.type == "cpu" and compute.reduced
    first = U2NetForeground(path, cuda, backend, reduced)
    backend, second = files.second_foreground
    if second is None:
        return PatternForeground(first)
    other = U2NetForeground(second, cuda, backend, reduced)
    return PatternForeground(ClearerForeground(first, other))


def build_proposals(backend: str, path: Path, settings: ProposalSettings, compute: Any) -> Any:
    """SAM with the thresholds of its backend where the settings leave them open."""
    from pipeline.models.proposals import SamProposals

    settings = with_quality(settings, QUALITY.get(backend, OFFICIAL_QUALITY))
    fast = backend == "small" or compute.device.type == "cuda"
    batch = SMALL_SAM_BATCH if fast else FULL_SAM_BATCH
    return SamProposals(build_sam(backend, path), settings, compute, batch)


def build_sam(backend: str, path: Path) -> Any:
    """The bundled small SAM, or an official one (`vit_b`, `vit_l`, `vit_h`), with its weights."""
    if backend == "small":
        from pipeline.models.small_sam.build import small_sam

        return small_sam(path)
    from pipeline.models import lean_segment_anything as _lean  # noqa: F401  isort: skip  first
    from segment_anything import sam_model_registry

    from pipeline.models.weights.safe_load import load_into

    # Built without the registry's `checkpoint` argument, which would unpickle the file.
    return load_into(sam_model_registry[backend], path)


def build_embedder(backend: str, path: Path) -> Any:
    """The embedding of parts by the features of EfficientNet-Lite0 or of the bundled teacher."""
    from pipeline.models.part_embedding import Embedder

    # On the CPU in any case: the crops are small, and the vectors must not depend on the device.
    if backend == "lite0":
        from pipeline.models.lite0 import lite0_trunk

        return Embedder(lite0_trunk(path).shortened())
    from pipeline.models.backbone import small_teacher

    return Embedder(small_teacher(path))


def build_inpainter(
    backend: str, path: Path | None, settings: InpaintBackend, compute: Any
) -> "Inpainter":
    """OpenCV, PatchMatch, a server, lama-cleaner in process, LaMa as TorchScript, or candidates."""
    from pipeline.models.inpaint import base

    if backend in base.OPENCV_METHODS:
        return base.OpenCvInpainter(backend)
    if backend.startswith("remote:"):
        from pipeline.models.inpaint.remote import RemoteInpainter

        return RemoteInpainter(settings, model=backend.split(":", 2)[2])
    if backend == "patchmatch":
        from pipeline.models.inpaint.patch_match import PatchMatchInpainter

        return PatchMatchInpainter()
    assert path is not None
    if backend == "candidates":
        from pipeline.models.inpaint.candidates import CandidateInpainter

        # The cheap one first: it is taken where nothing can tell which one is better.
        return CandidateInpainter({
            name: build_inpainter(name, path, settings, compute)
            for name in ("patchmatch", "small_lama")
        })  # fmt: skip
    if backend == "lama_cleaner":
        from pipeline.models.inpaint.lama_cleaner import LamaCleanerInpainter

        return LamaCleanerInpainter(path, compute)
    from pipeline.models.inpaint.lama import SMALL_SIDE, TorchScriptLama

    return TorchScriptLama(path, compute, SMALL_SIDE if backend == "small_lama" else None)


def build_filler(path: Path | None, settings: FillBackend, compute: Any) -> "Filler | None":
    """A diffusers pipeline from its folder; None without one."""
    if path is None:
        return None
    from pipeline.models.inpaint.diffusion import DiffusionFiller

    return DiffusionFiller(path, settings, compute)


def with_quality(
    settings: ProposalSettings, quality: tuple[float, float, float]
) -> ProposalSettings:
    """The settings with the thresholds of the backend where the user set none."""
    names = ("min_predicted_iou", "min_stability", "min_component")
    defaults = dict(zip(names, quality, strict=True))
    return settings.model_copy(
        update={k: v for k, v in defaults.items() if getattr(settings, k) is None}
    )


def _find_file(
    stage: Any, entries: Mapping[str, str], allow_noncommercial: bool
) -> tuple[str, Path]:
    """Backend and file of one stage; `entries` maps its backends to the weights registry."""
    explicit = Path(stage.weights) if stage.weights else None
    if stage.backend != "auto":
        backend = stage.backend
    elif explicit is not None:
        backend = _backend_of(explicit, entries)
    else:
        *_, last = entries
        # Nothing found: fall through to the last one, so that `require` reports what is missing.
        backend = next((b for b, entry in entries.items() if weights.find(entry)), last)
    return backend, weights.require(entries[backend], explicit, allow_noncommercial)


def _second_foreground(
    settings: ForegroundBackend, first: str, allow_noncommercial: bool
) -> tuple[str, Path | None]:
    """The bundled network beside an official one that `auto` found; a named one stands alone."""
    *_, bundled = FOREGROUND
    if settings.backend != "auto" or settings.weights or first == bundled:
        return "none", None
    return bundled, weights.require(FOREGROUND[bundled], None, allow_noncommercial)


def _find_inpaint(settings: InpaintBackend, allow_noncommercial: bool) -> tuple[str, Path | None]:
    if settings.backend in ("telea", "ns", "patchmatch"):
        return settings.backend, None
    if settings.backend == "remote":
        from pipeline.models.inpaint.remote import server_model

        return f"remote:{settings.api}:{server_model(settings)}", None
    if settings.backend == "lama_cleaner":
        # lama-cleaner reads the same files as our own adapter.
        same = settings.model_copy(update={"backend": "auto"})
        return settings.backend, _find_file(same, INPAINT, allow_noncommercial)[1]
    return _find_file(settings, INPAINT, allow_noncommercial)


def _find_fill(settings: FillBackend, allow_noncommercial: bool) -> tuple[str, Path | None]:
    if settings.backend == "none":
        return "none", None
    from pipeline.models.inpaint.diffusers_folder import (
        check_folder,
        forbids_commerce,
        stated_licence,
    )

    backend, path = _find_file(settings, FILL, allow_noncommercial)
    # The registry knows one licence for any folder, so the folder's own README.md is read as well.
    licence = stated_licence(path)
    if forbids_commerce(licence) and not allow_noncommercial:
        raise WeightsError(
            f"{path} is under {licence!r} by its own README.md, and the manifest forbids "
            "non-commercial licences; take another folder or set licence.allow_noncommercial: true"
        )
    check_folder(path)
    return backend, path


def _backend_of(path: Path, entries: Mapping[str, str]) -> str:
    """The backend whose official file has this name; UserError for any other name."""
    # All LaMa files are called in the same way, so the backend makes no difference.
    if entries is INPAINT:
        return next(iter(entries))
    for backend, entry in entries.items():
        if weights.entry(entry).file == path.name:
            return backend
    raise UserError(
        f"cannot tell which model {path} holds; set the stage's backend to one of {list(entries)}"
    )
