"""Stage 1 of generation: decode an image, find its foreground, propose its objects.

A bad image is recorded and costs nothing but itself.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ImageError
from pipeline.generation.cache_codecs import pack_analysis, unpack_analysis
from pipeline.generation.cache_keys import PlannedImage
from pipeline.generation.outcome import Outcome
from pipeline.generation.plan import RunPlan
from pipeline.imaging.decode import file_digest, load_image
from pipeline.models import build as models
from pipeline.records import ForegroundMask, ObjectProposals


def analyse_batch(plan: RunPlan, images: Sequence[PlannedImage]) -> list[Outcome]:
    """Several images, one after another, into the cache; a unit of work of a task."""
    with plan.cache.in_use():
        return [analyse(plan, image) for image in images]


def analyse(plan: RunPlan, image: PlannedImage) -> Outcome:
    """See to it that an image's analysis is in the cache."""
    if plan.cache.has("analysis", image.analysis_key):
        return Outcome(image.name, cached=True)
    started = time.perf_counter()
    try:
        analysis_of(plan, image)
    except ImageError as error:
        return Outcome(image.name, error=str(error))
    return Outcome(image.name, analysis_seconds=round(time.perf_counter() - started, 4))


def analysis_of(
    plan: RunPlan, image: PlannedImage
) -> tuple[np.ndarray, ForegroundMask, ObjectProposals]:
    """Pixels, foreground and proposals of one image, from the cache or from the models.

    ImageError when the file cannot be used, or is no longer the one that was planned with.
    """
    stored = plan.cache.read("analysis", image.analysis_key)
    if stored is not None:
        return unpack_analysis(*stored)
    pixels_HW3 = load_image(Path(image.path), plan.settings.image_size)
    if file_digest(Path(image.path)) != image.digest:
        raise ImageError(f"{image.path}: replaced while the run was going on; run again")
    loaded = models_for(plan)
    foreground = loaded.foreground(pixels_HW3)
    proposals = loaded.proposals(pixels_HW3, foreground)
    arrays, facts = pack_analysis(pixels_HW3, foreground, proposals)
    plan.cache.write("analysis", image.analysis_key, arrays, facts)
    return pixels_HW3, foreground, proposals


def pixels_and_objects(plan: RunPlan, image: PlannedImage) -> tuple[np.ndarray, ObjectProposals]:
    """An image as donors and the calibration of the gate want it."""
    pixels_HW3, _, proposals = analysis_of(plan, image)
    return pixels_HW3, proposals


def models_for(plan: RunPlan) -> models.Models:
    """The models of a run, resident in this process, with one thread each (decision 0006)."""
    from pipeline.models import device

    device.one_thread()
    return models.load(plan.settings.models, plan.settings.proposals, plan.files)
