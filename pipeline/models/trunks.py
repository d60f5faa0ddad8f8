"""Every frozen trunk by its entry of the weights registry.

    teacher = trunk_of("efficientnet-lite0", path)
    fine, middle, coarse = teacher(normalise(images_B3HW))

All have the interface of `pipeline.models.backbone.Trunk`: levels at strides 4, 8 and 16 with
`channels`, frozen, fed by `backbone.normalise`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.errors import UserError
from pipeline.models.backbone import Trunk, resnet18_trunk, small_teacher
from pipeline.models.lite0 import Lite0Trunk, lite0_trunk

AnyTrunk = Trunk | Lite0Trunk
TRUNKS: Mapping[str, Callable[[Path | None], AnyTrunk]] = {
    "resnet18": resnet18_trunk,
    "efficientnet-lite0": lite0_trunk,
    "bundled-teacher": small_teacher,
}


def trunk_of(teacher: str, weights: Path | None = None) -> AnyTrunk:
    """The frozen trunk for an entry of the weights registry; `weights` is its file.

    Without a file it is random, for tests of shapes. UserError for an unknown entry.
    """
    if teacher not in TRUNKS:
        raise UserError(f"no trunk belongs to teacher {teacher!r}; known: {', '.join(TRUNKS)}")
    return TRUNKS[teacher](weights)
