"""Changing light of a composed scene: contact shadows, exposure, colour, a shadow across, noise.

Shapes: H, W image; 3 colour (RGB, float32 0-255 on entry, uint8 on exit).
"""

import cv2
import numpy as np

# Ranges that are drawn from for each scene.
GAIN = (0.82, 1.15)
GAMMA = (0.85, 1.2)
# Gain of red and its inverse on blue: warm to cold light.
TEMPERATURE = (0.92, 1.09)
# How much darker the far end of a scene may be.
GRADIENT = 0.3
SHADOW = (0.25, 0.5)
# Sensor noise, grey levels.
NOISE = 1.5


def contact_shadow(parts_HW: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Factor (H, W) by which the parts (alpha, 0-1) darken what they lie on, from one side."""
    size = parts_HW.shape[0]
    angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(*SHADOW)
    reach = size * rng.uniform(0.004, 0.012)
    move = np.array([[1, 0, reach * np.cos(angle)], [0, 1, reach * np.sin(angle)]], np.float32)
    moved_HW = cv2.warpAffine(parts_HW, move, (size, size))
    # A narrow dark line where a part touches the ground, and a wide soft one beside it.
    near_HW = cv2.GaussianBlur(moved_HW, (0, 0), size * 0.004)
    far_HW = cv2.GaussianBlur(moved_HW, (0, 0), size * 0.016)
    return 1 - depth * (0.6 * near_HW + 0.4 * far_HW)


def lit(image_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image under drawn light, uint8."""
    height, width = image_HW3.shape[:2]
    warm = rng.uniform(*TEMPERATURE)
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    across_HW = (np.cos(angle) * xs + np.sin(angle) * ys) / np.sqrt(2)
    # A soft edge somewhere in the scene rather than an even ramp: the shadow of somebody near.
    edge, width_of_edge = rng.uniform(-0.5, 0.5), rng.uniform(0.3, 1.0)
    shade_HW = 1 - rng.uniform(0, GRADIENT) / (1 + np.exp(-4 * (across_HW - edge) / width_of_edge))
    unit_HW3 = np.clip(image_HW3 / 255, 0, 1) ** rng.uniform(*GAMMA)
    unit_HW3 = unit_HW3 * rng.uniform(*GAIN) * shade_HW[..., None] * (warm, 1.0, 1 / warm)
    noisy_HW3 = 255 * unit_HW3 + rng.normal(0, NOISE, image_HW3.shape)
    return np.clip(np.rint(noisy_HW3), 0, 255).astype(np.uint8)
