"""The parts of images for rule books, from the analyses that edits are made from (decision 0028).

    find = finder_for(settings)
    parts = find(find.of_file(image_HW3, digest))

What was found in an image is read from the stage cache, or written into it: whichever of
`generate`, `rules` and `serve` comes first runs the models, and the others do not. Images that are
of no file, such as edited ones, are found without the cache.

Shapes: H, W image; P boxes; M masks; N parts; 3 colour (RGB, uint8).
"""

from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, partial
from hashlib import sha256

import numpy as np

from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.generation.cache import CACHE, StageCache
from pipeline.generation.cache_codecs import pack_analysis, unpack_analysis
from pipeline.generation.cache_keys import analysis_key, look_key, parts_key
from pipeline.generation.parts_codecs import pack_masks, pack_parts, unpack_masks, unpack_parts
from pipeline.generation.plan import plan_of
from pipeline.models import build as models
from pipeline.models.build import Models
from pipeline.rulebook.descriptors import Describer
from pipeline.rulebook.parts import PartFinder, Parts, parts_among

# Analysis key of an image by the SHA-256 of its file; None where it is not known.
KeyOf = Callable[[str], str | None]


class StudiedFinder:
    """A part finder (`rulebook.second_look.Finder`) that looks into the stage cache first.

    `load` gives the models when the cache does not have everything.
    """

    def __init__(
        self, load: Callable[[], Models], cache: StageCache, key_of: KeyOf = lambda digest: None
    ) -> None:
        self._load, self._cache, self._key_of = load, cache, key_of
        # Analysis keys by the SHA-256 of the pixels.
        self._keys: dict[bytes, str] = {}

    def of_file(self, image_HW3: np.ndarray, digest: str) -> np.ndarray:
        """The image itself, after noting that it was read from the file of that SHA-256."""
        key = self._key_of(digest)
        if key is not None:
            self.of_analysis(image_HW3, key)
        return image_HW3

    def of_analysis(self, image_HW3: np.ndarray, key: str) -> None:
        """Note the key of an image's analysis."""
        self._keys[_digest(image_HW3)] = key

    @cached_property
    def describe(self) -> Describer:
        """The describer of rule books."""
        return Describer.bundled()

    @cached_property
    def _find(self) -> PartFinder:
        loaded = self._models()
        return PartFinder(loaded.foreground, loaded.proposals, self.describe)

    def _models(self) -> Models:
        from pipeline.models import device

        # As in a run: the same sums give the same parts.
        device.one_thread()
        return self._load()

    def __call__(self, image_HW3: np.ndarray) -> Parts:
        """The parts of an image."""
        analysis_at = self._keys.get(_digest(image_HW3))
        if analysis_at is None:
            return self._find(image_HW3)
        key = parts_key(analysis_at)
        stored = self._cache.read("parts", key)
        if stored is not None:
            return unpack_parts(*stored)
        entry = self._cache.read("analysis", analysis_at)
        if entry is not None:
            analysis = unpack_analysis(*entry)[1]
        else:
            analysis = self._models().analyse(image_HW3)
            self._keep("analysis", analysis_at, *pack_analysis(image_HW3, analysis))
        parts = parts_among(image_HW3, analysis.foreground, analysis.soft, self.describe)
        self._keep("parts", key, *pack_parts(parts))
        return parts

    def within(self, image_HW3: np.ndarray, boxes_P4: np.ndarray) -> np.ndarray:
        """What the proposal model finds in boxes, masks (M, H, W) bool; see `SamProposals`."""
        analysis_at = self._keys.get(_digest(image_HW3))
        if analysis_at is None:
            return self._find.within(image_HW3, boxes_P4)
        key = look_key(analysis_at, boxes_P4.tolist())
        stored = self._cache.read("parts", key)
        if stored is not None:
            return unpack_masks(*stored)
        masks_MHW = self._find.within(image_HW3, boxes_P4)
        self._keep("parts", key, *pack_masks(masks_MHW))
        return masks_MHW

    def _keep(self, stage: str, key: str, arrays: dict[str, np.ndarray], facts: object) -> None:
        """Write an entry of the cache; nothing in a store that cannot be written to."""
        with suppress(UserError), self._cache.in_use():
            self._cache.write(stage, key, arrays, facts)


def finder_for(settings: CategorySettings) -> StudiedFinder:
    """The part finder of a category, as a run of it would find parts."""
    files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    load = partial(models.load, settings.models, settings.proposals, files)
    key_of = partial(analysis_key, settings, files.digests())
    return StudiedFinder(load, StageCache(settings.store / CACHE), key_of)


def finder_of_version(version: Version, load: Callable[[], Models]) -> StudiedFinder:
    """The part finder for the images of a version; `load` gives the models it was made with.

    The cache is used only where a run would make the version's analyses again to the last bit:
    another release may decode its files otherwise, and another machine compute otherwise.
    """
    # A copy of a version without its store knows no plan, and nothing is in a cache.
    plan = plan_of(version)
    made = {image.digest: image.analysis_key for image in plan.images} if plan else {}

    def key_of(digest: str) -> str | None:
        if plan is None or digest not in made:
            return None
        key = analysis_key(plan.settings, plan.weights, digest)
        return key if key == made[digest] else None

    return StudiedFinder(load, StageCache(version.dir.parent.parent / CACHE), key_of)


def _digest(image_HW3: np.ndarray) -> bytes:
    return sha256(image_HW3.tobytes()).digest()
