"""Training images of the small teacher: crops of photographs and of rendered images.

Distillation needs no labels, so strong augmentation is harmless, and variety matters: there are
only about a dozen photographs. Half of the crops come from them, at any scale and rotation.
Shapes: B batch; S side of a crop; H, W image; 3 colour (RGB, uint8).
"""

import cv2
import numpy as np

from pretraining.data.textures import photographs

# Share of crops from photographs; the rest come from rendered images.
PHOTOGRAPHS_SHARE = 0.5


class CropSampler:
    """Draws crops; `rendered` are arrays (N, H, W, 3) uint8, drawn from with equal probability."""

    def __init__(self, rendered: list[np.ndarray]) -> None:
        self.rendered = rendered

    def batch(self, rng: np.random.Generator, count: int, size: int) -> np.ndarray:
        """`count` distorted crops, (B, 3, S, S) uint8."""
        crops = [self._one(rng, size) for _ in range(count)]
        return np.ascontiguousarray(np.stack(crops).transpose(0, 3, 1, 2))

    def _one(self, rng: np.random.Generator, size: int) -> np.ndarray:
        crop_SS3 = self._crop(rng, size)
        if rng.random() < 0.15:
            # Paste a rectangle of another crop (CutMix).
            other_SS3 = self._crop(rng, size)
            y, x = rng.integers(0, size - 16, 2)
            height, width = rng.integers(8, size // 2, 2)
            crop_SS3[y : y + height, x : x + width] = other_SS3[y : y + height, x : x + width]
        elif rng.random() < 0.1:
            # Blend two crops (mixup).
            share = float(rng.uniform(0.3, 0.7))
            crop_SS3 = cv2.addWeighted(crop_SS3, share, self._crop(rng, size), 1 - share, 0)
        return distort(rng, crop_SS3)

    def _crop(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """A random square of an image, rotated and mirrored, resized to (S, S, 3)."""
        if rng.random() < PHOTOGRAPHS_SHARE:
            photos = photographs()
            # Photographs have more detail than renderings, so smaller crops of them are useful.
            image_HW3, least = photos[int(rng.integers(len(photos)))], 0.15
        else:
            images = self.rendered[int(rng.integers(len(self.rendered)))]
            image_HW3, least = images[int(rng.integers(len(images)))], 0.3
        shorter = min(image_HW3.shape[:2])
        # Log-uniform: every scale is equally likely.
        side = round(shorter * np.exp(rng.uniform(np.log(least), 0.0)))
        y, x = (int(rng.integers(length - side + 1)) for length in image_HW3.shape[:2])
        # Area averaging avoids aliasing when shrinking.
        how = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        crop_SS3 = cv2.resize(
            image_HW3[y : y + side, x : x + side], (size, size), interpolation=how
        )
        # Any angle, slightly enlarged so that reflected borders stay small.
        if rng.random() < 0.3:
            middle, degrees = (size / 2, size / 2), float(rng.uniform(0, 360))
            turn = cv2.getRotationMatrix2D(middle, degrees, float(rng.uniform(1.0, 1.4)))
            crop_SS3 = cv2.warpAffine(crop_SS3, turn, (size, size), borderMode=cv2.BORDER_REFLECT)
        crop_SS3 = np.rot90(crop_SS3, int(rng.integers(4)))
        return np.ascontiguousarray(crop_SS3[:, ::-1] if rng.random() < 0.5 else crop_SS3)


def distort(rng: np.random.Generator, image_SS3: np.ndarray) -> np.ndarray:
    """Change light, colours, sharpness and noise; (S, S, 3) uint8 in and out."""
    if rng.random() < 0.2:
        image_SS3 = image_SS3[..., rng.permutation(3)]
    image = image_SS3.astype(np.float32)
    if rng.random() < 0.15:
        image = np.repeat(image.mean(2, keepdims=True), 3, 2)
    elif rng.random() < 0.5:
        # Less or more saturated.
        grey = image.mean(2, keepdims=True)
        image = grey + (image - grey) * np.float32(rng.uniform(0.3, 1.5))
    # Contrast, brightness and a colour cast.
    if rng.random() < 0.7:
        tint_3 = rng.uniform(0.85, 1.15, 3).astype(np.float32)
        image = (image - 128) * np.float32(rng.uniform(0.5, 1.4)) + 128
        image = image * tint_3 + np.float32(rng.uniform(-40, 40))
    if rng.random() < 0.05:
        image = 255 - image
    if rng.random() < 0.2:
        image[:] = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 2.0)))
    if rng.random() < 0.4:
        # Sensor noise.
        strength = np.float32(rng.uniform(1, 10))
        image = image + strength * rng.standard_normal(image.shape, np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)
