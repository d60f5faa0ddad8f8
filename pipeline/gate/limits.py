"""Limits of the gate that a category's normal images taught.

Apart from the calibration that learns them: the checks are read by pages and reviews, which must
not wait for PyTorch and SciPy.
"""

from dataclasses import asdict, dataclass
from typing import Any

# Noise ratios that are always accepted: small inpainted regions vary by that much.
USUAL_NOISE = (0.4, 2.5)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits calibrated on the category's normal images; None where nothing could be learned.

    They have the names of the `GateSettings` fields that they replace when those are null. `images`
    and `regions` count what was measured, `teacher` is the SHA-256 of the network's weights.
    """

    max_outline_ratio: float | None = None
    min_noise_ratio: float | None = None
    max_noise_ratio: float | None = None
    max_patch_distance: float | None = None
    max_clipped: float | None = None
    images: int = 0
    regions: int = 0
    teacher: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
