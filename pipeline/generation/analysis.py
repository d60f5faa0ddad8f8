"""Stage 1 of generation: decode an image, find its foreground, propose its objects.

An unusable image is recorded, and the others are processed.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import ImageError
from pipeline.generation.cache_codecs import pack_analysis, unpack_analysis, unpack_objects
from pipeline.generation.cache_keys import PlannedImage, calibration_images
from pipeline.generation.outcome import Outcome
from pipeline.generation.plan import RunPlan
from pipeline.imaging.decode import file_digest, load_image
from pipeline.models import build as models
from pipeline.records import Analysis, ObjectProposals
from pipeline.utils.free_memory import give_back


def images_to_analyse(plan: RunPlan) -> tuple[PlannedImage, ...]:
    """The images that the calibration needs analysed; none when it is in the cache already.

    Here and not in `calibrate`, which takes half a second to import.
    """
    if plan.cache.has("normality", plan.calibration_key):
        return ()
    return calibration_images(plan.images)


def analyse_batch(plan: RunPlan, images: Sequence[PlannedImage]) -> list[Outcome]:
    """Analyse several images one after another into the cache; the unit of work of a task."""
    with plan.cache.in_use():
        return [analyse(plan, image) for image in images]


def analyse(plan: RunPlan, image: PlannedImage) -> Outcome:
    """Make sure that the analysis of an image is in the cache."""
    # Existence is enough here; whoever reads the entry checks it.
    if plan.cache.has("analysis", image.analysis_key):
        return Outcome(image.name, cached=True)
    started = time.perf_counter()
    try:
        analysis_of(plan, image)
    except ImageError as error:
        return Outcome(image.name, error=str(error))
    return Outcome(image.name, analysis_seconds=round(time.perf_counter() - started, 4))


def analysis_of(plan: RunPlan, image: PlannedImage) -> tuple[np.ndarray, Analysis]:
    """Pixels of one image and what was found in it, from the cache or from the models.

    Pixels are (H, W, 3) uint8 RGB at the size of the settings. Raises ImageError when the file
    cannot be used, or has changed since the plan was made.
    """
    # A damaged entry counts as absent and is computed again.
    stored = plan.cache.read("analysis", image.analysis_key)
    if stored is not None:
        return unpack_analysis(*stored)
    pixels_HW3 = load_image(Path(image.path), plan.settings.image_size)
    # After reading, not before: these are then the pixels that the key promises.
    if file_digest(Path(image.path)) != image.digest:
        raise ImageError(f"{image.path}: replaced during the run; run again")
    analysis = models_for(plan).analyse(pixels_HW3)
    plan.cache.write("analysis", image.analysis_key, *pack_analysis(pixels_HW3, analysis))
    give_back(pixels_HW3[..., 0].size)
    return pixels_HW3, analysis


def pixels_and_objects(plan: RunPlan, image: PlannedImage) -> tuple[np.ndarray, ObjectProposals]:
    """An image as donors and the calibration of the gate need it."""
    stored = plan.cache.read("analysis", image.analysis_key)
    if stored is not None:
        pixels_HW3, _, proposals = unpack_objects(*stored)
        return pixels_HW3, proposals
    pixels_HW3, analysis = analysis_of(plan, image)
    return pixels_HW3, analysis.proposals


def models_for(plan: RunPlan) -> models.Models:
    """The models of a run, resident in this process, with one thread each (decision 0006)."""
    from pipeline.models import device

    # Images are spread over workers instead, and results do not depend on the number of cores.
    device.one_thread()
    return models.load(plan.settings.models, plan.settings.proposals, plan.files)
