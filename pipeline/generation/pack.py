"""Stage 4 of generation: publish what the stage cache holds of a plan as one dataset version."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.dataset.version import Version
from pipeline.dataset.version_writer import VersionHeader
from pipeline.errors import ImageError
from pipeline.generation.asked import result_of
from pipeline.generation.cache_keys import code_version, software
from pipeline.generation.calibrate import normal_model_of
from pipeline.generation.plan import RunPlan
from pipeline.generation.publish import publish
from pipeline.generation.sampler import forget_models, generate_image
from pipeline.imaging.decode import read_header
from pipeline.records import ImageResult, TestImage
from pipeline.sources.ground_truth import load_test
from pipeline.utils.free_memory import LARGE, give_back


def pack(
    plan: RunPlan,
    failures: Sequence[dict[str, str]],
    progress: Callable[[int], None] | None = None,
    waiting: Callable[[], None] | None = None,
    workers: int = 1,
) -> Version:
    """Publish what the cache holds of the plan as one version.

    `failures` are inputs that could not be used, with `name` and `error`. The plan is saved beside
    the cache: it lists the entries that the version was made from. `workers` as in `publish`.
    """
    from pipeline.models import device as devices

    # Where images are large, what packing and audit hold takes the place of the models.
    height, width = plan.settings.image_size
    if height * width >= LARGE:
        forget_models()
        give_back(height * width)
    # The header keeps this very list: packing appends the failures of its own reading.
    failed = [*plan.failures, *failures]
    output = plan.settings.output
    # Everything in the index that does not follow from the results.
    header = VersionHeader(
        settings=plan.settings.digest_content(),
        plan_digest=plan.digest,
        weights=plan.weights,
        code_version=code_version(),
        licence=plan.settings.licence,
        failures=failed,
        defects_config=plan.defects_config,
        original_size=_original_size(plan),
        limits=normal_model_of(plan).limits.to_json(),
        reviews=plan.reviews,
        # The device as well: it decides how numbers are rounded.
        software=software()
        | {
            "compute": devices.choose(
                plan.settings.models.device, plan.settings.models.precision
            ).describe()
        },
    )
    # `gc` must not delete entries between reading them and publishing the version.
    with plan.cache.in_use():
        plan.save()
        return publish(
            plan.settings.store,
            plan.settings.name,
            _results(plan, failed),
            _test_images(plan, failed),
            header,
            profile=output.profile,
            shard_images=output.shard_images,
            # A sample of rejects for the gallery; more would only cost space.
            keep_rejects=64 if output.keep_rejects else 0,
            gallery=output.gallery,
            audit=output.audit,
            progress=progress,
            waiting=waiting,
            workers=workers,
        )


def _original_size(plan: RunPlan) -> tuple[int, int] | None:
    """(H, W) of the first readable image file; all images of a category have one size."""
    for image in plan.images:
        try:
            # Kept for metrics with absolute areas, which refer to the original size.
            return read_header(Path(image.path)).size_HW
        except ImageError:
            continue
    return None


def _results(plan: RunPlan, failed: list[dict[str, str]]) -> Iterator[ImageResult]:
    """Results in the order of the plan; new failures are appended to `failed`."""
    known = {failure["name"] for failure in failed}
    for image in plan.images:
        # Failed images were reported before; the version lists them.
        if image.name in known:
            continue
        result = result_of(plan, image)
        # The entry was deleted or damaged since: generate it again.
        if result is None:
            outcome = generate_image(plan, image)
            if outcome.error:
                failed.append({"name": image.name, "error": outcome.error})
                continue
            result = result_of(plan, image)
        if result is not None:
            yield result


def _test_images(plan: RunPlan, failed: list[dict[str, str]]) -> Iterator[TestImage]:
    """Real test images with their masks; new failures are appended to `failed`."""
    for entry in plan.test:
        try:
            yield load_test(entry, plan.settings.image_size, plan.defects_config)
        except ImageError as error:
            failed.append({"name": entry.name, "error": str(error)})
