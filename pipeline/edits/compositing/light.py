"""How the light of one photograph differs from that of another: a response curve per channel.

Shapes: h, w window; 3 colour (RGB, float32, 0-255).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

WHITE = 255.0


@dataclass(frozen=True, slots=True)
class Light:
    """A grey level v becomes 255 `gain` (v / 255)^`power`: one gain per channel, one power."""

    gain: tuple[float, float, float]
    power: float

    def on(self, pixels_hw3: np.ndarray) -> np.ndarray:
        """The pixels in the other light, (h, w, 3) float32; none becomes brighter than white."""
        raised_hw3 = np.power(np.maximum(pixels_hw3, 0) / np.float32(WHITE), np.float32(self.power))
        lit_hw3: np.ndarray = raised_hw3 * (np.float32(WHITE) * np.asarray(self.gain, np.float32))
        return np.minimum(lit_hw3, np.float32(WHITE))

    def to_json(self) -> dict[str, Any]:
        return {"gain": list(self.gain), "power": self.power}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Light":
        red, green, blue = data["gain"]
        return cls((red, green, blue), data["power"])
