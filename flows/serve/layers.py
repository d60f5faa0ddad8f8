"""The layers of a sample as images, and small ones for the gallery.

    source       the good image
    foreground   the good image, darkened where no product was found
    proposals    the good image with the outline of each object that was found
    edited       the synthetic image
    marked       the synthetic image with the outline of the change
    mask         white where the image may differ from its source
    difference   how much each pixel differs, brightened

`source`, `edited`, `mask` and `difference` are PNG, exact to the pixel. Where outlines are drawn,
small images are enlarged first, and the layer is JPEG, which is ten times faster. Thumbnails are
WebP where Pillow has it.
"""

import colorsys
import io
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image, features

from pipeline.dataset.shard_reader import ShardReader

# Pixels of the longer side of a thumbnail; twice the width of a card, for fine screens.
THUMBNAIL = 360
# Pixels of the longer side to which images are enlarged, as far as whole factors go, for outlines;
# the largest factor, for beyond it single pixels are of interest and not outlines.
DRAWN, MOST_TIMES = 768, 4
# Pink, which hardly any product has; dark around it, so that it is seen on light and dark.
_MARK, _RIM = (255, 46, 136), (24, 0, 12)
_OUTLINE = (94, 234, 212)
# Brightening of the difference: a change that one hardly sees is visible.
_GAIN = 4


def layer(name: str, shard: ShardReader, sample: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of one layer of LAYERS."""
    return LAYERS[name](shard, sample)


def encoded(name: str, image_HW3: np.ndarray) -> tuple[bytes, str]:
    """A layer as bytes with its media type."""
    buffer, image = io.BytesIO(), Image.fromarray(image_HW3)
    if name in _DRAWN:
        # Colours at full resolution, as lines are thin.
        image.save(buffer, "JPEG", quality=92, subsampling=0)
        return buffer.getvalue(), "image/jpeg"
    # Compressed lightly: it is sent to the same machine.
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue(), "image/png"


def thumbnail(view: str, shard: ShardReader, sample: int) -> np.ndarray:
    """(h, w, 3) uint8 RGB, the longer side at most THUMBNAIL px; `view` is marked, edited, source.

    The outline is drawn after shrinking, so that it is as thin on large images.
    """
    if view == "source":
        return _shrunk(shard.original(shard.source(sample)))
    small_HW3 = _shrunk(shard.edited(sample))
    if view == "edited":
        return small_HW3
    height, width = small_HW3.shape[:2]
    mask_HW = cv2.resize(
        shard.mask(sample).astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA
    )
    return _marked(small_HW3, mask_HW > 64)


def small(image_HW3: np.ndarray) -> tuple[bytes, str]:
    """A thumbnail as bytes with its media type."""
    buffer = io.BytesIO()
    image = Image.fromarray(image_HW3)
    if features.check("webp"):
        # Method 1 of 0-6: a page of thumbnails must appear at once.
        image.save(buffer, "WEBP", quality=80, method=1)
        return buffer.getvalue(), "image/webp"
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue(), "image/jpeg"


def _shrunk(image_HW3: np.ndarray) -> np.ndarray:
    height, width = image_HW3.shape[:2]
    scale = THUMBNAIL / max(height, width)
    if scale >= 1:
        return image_HW3
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)


def _source(shard: ShardReader, sample: int) -> np.ndarray:
    return shard.original(shard.source(sample))


def _foreground(shard: ShardReader, sample: int) -> np.ndarray:
    image = _enlarged(_source(shard, sample))
    mask_HW = _smooth(shard.foreground(shard.source(sample)), image)
    image[~mask_HW] = image[~mask_HW] // 4
    image[_border(mask_HW, 1)] = _OUTLINE
    return image


def _proposals(shard: ShardReader, sample: int) -> np.ndarray:
    """Each in its own colour, filled faintly; the best is on top."""
    image = _enlarged(_source(shard, sample))
    masks_NHW, _ = shard.proposals(shard.source(sample))
    for number in reversed(range(len(masks_NHW))):
        mask_HW, colour = _smooth(masks_NHW[number], image), _hue(number)
        image[mask_HW] = (0.7 * image[mask_HW] + 0.3 * colour).astype(np.uint8)
        image[_border(mask_HW, 1)] = colour
    return image


def _edited(shard: ShardReader, sample: int) -> np.ndarray:
    return shard.edited(sample)


def _marked_layer(shard: ShardReader, sample: int) -> np.ndarray:
    image = _enlarged(shard.edited(sample))
    return _marked(image, _smooth(shard.mask(sample), image))


def _mask(shard: ShardReader, sample: int) -> np.ndarray:
    white = shard.mask(sample).astype(np.uint8) * 255
    return np.repeat(white[..., None], 3, axis=2)


def _difference(shard: ShardReader, sample: int) -> np.ndarray:
    changed = cv2.absdiff(shard.edited(sample), _source(shard, sample)).max(axis=2)
    bright = np.minimum(changed.astype(np.int32) * _GAIN, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(bright, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


LAYERS: dict[str, Callable[[ShardReader, int], np.ndarray]] = {
    "source": _source,
    "foreground": _foreground,
    "proposals": _proposals,
    "edited": _edited,
    "marked": _marked_layer,
    "mask": _mask,
    "difference": _difference,
}
# Those with outlines.
_DRAWN = ("foreground", "proposals", "marked")


def _marked(image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The image with the outline of a mask just outside of it, and a dark rim around that."""
    image = image_HW3.copy()
    inner = mask_HW.astype(np.uint8)
    line = _grown(inner, 2)
    image[(_grown(line, 1) > 0) & ~mask_HW] = _RIM
    image[(line > 0) & ~mask_HW] = _MARK
    return image


def _grown(mask_HW: np.ndarray, by: int) -> np.ndarray:
    return cv2.dilate(mask_HW, np.ones((2 * by + 1, 2 * by + 1), np.uint8))


def _border(mask_HW: np.ndarray, width: int) -> np.ndarray:
    """(H, W) bool, the inner rim of a mask; outside the image counts as inside."""
    core = cv2.erode(mask_HW.astype(np.uint8), np.ones((2 * width + 1, 2 * width + 1), np.uint8))
    return mask_HW & (core == 0)


def _enlarged(image_HW3: np.ndarray) -> np.ndarray:
    """A copy of which one pixel is a thin line on a screen: smaller images are enlarged."""
    height, width = image_HW3.shape[:2]
    times = max(1, min(MOST_TIMES, DRAWN // max(height, width)))
    if times == 1:
        return image_HW3.copy()
    size = width * times, height * times
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_CUBIC)


def _smooth(mask_HW: np.ndarray, like_HW3: np.ndarray) -> np.ndarray:
    """The mask at the size of an enlarged image, with curves in place of steps."""
    height, width = like_HW3.shape[:2]
    grey = mask_HW.astype(np.uint8) * 255
    if mask_HW.shape == (height, width):
        return mask_HW
    large = cv2.resize(grey, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.GaussianBlur(large, (0, 0), width / mask_HW.shape[1] / 2) > 127


def _hue(number: int) -> np.ndarray:
    """Consecutive numbers get distant hues: steps of the golden ratio around the circle."""
    return np.array(colorsys.hsv_to_rgb((0.07 + number * 0.618034) % 1.0, 0.78, 1.0)) * 255.0
