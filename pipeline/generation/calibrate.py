"""Stage 2 of generation: calibrate the gate on normal images of the category.

Limits and patch bank are learned once per plan, before any sample is judged.
"""

import threading
from functools import partial
from math import prod
from pathlib import Path

from pipeline.gate import calibration
from pipeline.gate.calibration import NormalModel
from pipeline.generation.analysis import analyse, pixels_and_objects
from pipeline.generation.cache_keys import calibration_images, teacher_file
from pipeline.generation.plan import RunPlan
from pipeline.utils.free_memory import give_back

# Threads of a run share the normal models that were read last, and learn each only once.
_LOCK = threading.Lock()
_RESIDENT: dict[tuple[str, str], NormalModel] = {}
# A run works on one category after another, so older models are not needed again.
MAX_RESIDENT = 2


def calibrate(plan: RunPlan) -> None:
    """Calibrate the gate unless the cache has it; analyses the images that are missing there.

    Two processes may do this at once: both write the same entry.
    """
    with plan.cache.in_use():
        normal_model_of(plan)


def normal_model_of(plan: RunPlan) -> NormalModel:
    """The normal model of the category, from memory, from the cache, or learned now.

    Images that cannot be read are left out.
    """
    at = (str(plan.cache.root), plan.calibration_key)
    with _LOCK:
        # An entry that `gc` deleted meanwhile is written again below.
        if at in _RESIDENT and plan.cache.has("normality", plan.calibration_key):
            return _RESIDENT[at]
        stored = plan.cache.read("normality", plan.calibration_key)
        if stored is None:
            arrays, facts = calibration.pack(_learned(plan))
            plan.cache.write("normality", plan.calibration_key, arrays, facts)
            stored = arrays, facts
            give_back(prod(plan.settings.image_size))
        # Dictionaries keep their order, so the first key is the oldest.
        while len(_RESIDENT) >= MAX_RESIDENT:
            del _RESIDENT[next(iter(_RESIDENT))]
        _RESIDENT[at] = calibration.unpack(*stored, _teacher(plan))
        return _RESIDENT[at]


def _learned(plan: RunPlan) -> NormalModel:
    """Learn the normal model from the images that can be read."""
    images = [i for i in calibration_images(plan.images) if not analyse(plan, i).error]
    normals = {image.digest: partial(pixels_and_objects, plan, image) for image in images}
    return calibration.learn(normals, _teacher(plan), plan.settings.edits.dilation)


def _teacher(plan: RunPlan) -> Path | None:
    """The network behind the patch check, None where the gate does not use it."""
    return teacher_file(plan.settings) if plan.settings.uses_patches else None
