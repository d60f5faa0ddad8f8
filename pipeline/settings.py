"""Base class and shared types of the settings; the settings of a stage are in its own package.

Every field carries its unit and meaning in `description`, from which docs/manifest.md and the JSON
Schema are generated. Pixel lengths are stated at 256 px and scaled with the image (`pixels_at`).
Defaults are those of the source method where it has any, else measured here.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

# Longer side of the image, in pixels, at which pixel lengths in the settings are stated.
REFERENCE_PX = 256

# Sides of stored images in pixels: step, smallest and largest.
SIZE_STEP, SIZE_MIN, SIZE_MAX = 8, 64, 2048

# A share in [0, 1]; a random seed that fits a signed 64-bit integer.
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Settings(BaseModel):
    """Frozen; rejects unknown keys, NaN and infinity."""

    # `protected_namespaces`: fields may begin with `model_`.
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def pixels_at(length_256: float, size_HW: tuple[int, int]) -> float:
    """A pixel length stated at 256 px, scaled to an image by its longer side."""
    return length_256 * max(size_HW) / REFERENCE_PX


def as_size(value: Any) -> tuple[int, int]:
    """256 -> (256, 256); [H, W] -> (H, W); each a multiple of 8 between 64 and 2048.

    ValueError otherwise.
    """
    # bool is an int in Python, but no size.
    sides = [value, value] if isinstance(value, int) else value
    whole = isinstance(sides, list | tuple) and len(sides) == 2
    if not whole or any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
        raise ValueError("expected one whole number (square) or [height, width]")
    for side in sides:
        if side % SIZE_STEP or not SIZE_MIN <= side <= SIZE_MAX:
            raise ValueError(
                f"each side must be a multiple of {SIZE_STEP} from {SIZE_MIN} to {SIZE_MAX}"
            )
    return (sides[0], sides[1])


_SIDE_SCHEMA = {
    "type": "integer", "minimum": SIZE_MIN, "maximum": SIZE_MAX, "multipleOf": SIZE_STEP,
}  # fmt: skip
# Height and width; the schema allows one number as well, which `as_size` expands.
ImageSize = Annotated[
    tuple[int, int],
    BeforeValidator(as_size),
    WithJsonSchema(
        {
            "anyOf": [
                _SIDE_SCHEMA,
                {"type": "array", "items": _SIDE_SCHEMA, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]
