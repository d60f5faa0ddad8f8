"""Between calibration and samples: ask again where a part of a recurring kind is missing or cut.

Part kinds are learned from what was found at first, and every image is asked once, after that; see
`part_kinds.asking`. Images in which nothing is missing or in doubt have no entry in the cache.
"""

from dataclasses import replace

import numpy as np

from pipeline.generation.analysis import analysis_of, models_for, pixels_and_objects
from pipeline.generation.cache_codecs import pack_analysis, read_result, unpack_objects
from pipeline.generation.cache_keys import PlannedImage, asked_key
from pipeline.generation.calibrate import normal_model_of
from pipeline.generation.plan import RunPlan
from pipeline.models.build import Models
from pipeline.part_kinds.asking import ask_again, worth_asking
from pipeline.part_kinds.kinds import PartKinds
from pipeline.records import Analysis, ImageResult, ObjectProposals


def pixels_and_asked(plan: RunPlan, image: PlannedImage) -> tuple[np.ndarray, ObjectProposals]:
    """Pixels of one image and its objects, also those that were found when it was asked again."""
    pixels_HW3, proposals = pixels_and_objects(plan, image)
    kinds = _kinds_of(plan)
    if kinds is None or not worth_asking(kinds, proposals):
        return pixels_HW3, proposals
    key = asked_key(image.analysis_key, plan.calibration_key)
    stored = plan.cache.read("asked", key)
    if stored is not None:
        pixels_HW3, _, proposals = unpack_objects(*stored)
        return pixels_HW3, proposals
    analysis = analysis_of(plan, image)[1]
    asked = with_missing_parts(models_for(plan), kinds, pixels_HW3, analysis)
    plan.cache.write("asked", key, *pack_analysis(pixels_HW3, asked))
    return pixels_HW3, asked.proposals


def with_missing_parts(
    models: Models, kinds: PartKinds, image_HW3: np.ndarray, analysis: Analysis
) -> Analysis:
    """The analysis with what the models find when they are asked for missing parts."""
    found = ask_again(kinds, image_HW3, analysis, models.proposals.asked, models.embed)
    return replace(analysis, proposals=found)


def result_of(plan: RunPlan, image: PlannedImage) -> ImageResult | None:
    """The result of one image as a version holds it; None when the cache lacks a part of it."""
    keys = (image.analysis_key, image.samples_key)
    result = read_result(plan.cache, image.name, image.digest, image.split, keys)
    kinds = _kinds_of(plan)
    if result is None or kinds is None or not worth_asking(kinds, result.proposals):
        return result
    return replace(result, proposals=pixels_and_asked(plan, image)[1])


def _kinds_of(plan: RunPlan) -> PartKinds | None:
    """The part kinds of the category; None where edits do not use them."""
    return normal_model_of(plan).part_kinds if plan.settings.edits.uses_part_kinds else None
