"""A GLCF small enough for tests of some seconds, and images with an anomaly."""

import torch
from torch import Tensor, nn
from toy_normals import toy_images

from detectors.models.glcf.model import CleanTargetGlcf, Glcf
from detectors.models.glcf.settings import GlcfSettings
from detectors.networks.pyramids import TrunkPyramid
from pipeline.models.backbone import Trunk

# Channels of Swin-T's levels.
SWIN = (96, 192, 384, 768)
SMALL = {
    "size": 64, "teacher": "bundled-teacher", "width": 16, "depth": 1, "encoder_heads": 2,
    "decoder_heads": 2, "blocks": (1, 1),
}  # fmt: skip
LEVELS = ("fine", "middle", "coarse")


def small_glcf(seed: int = 0, **changes) -> Glcf:
    """A detector with a random trunk of 8, 16 and 32 channels, in evaluation mode."""
    torch.manual_seed(seed)
    settings = GlcfSettings(**SMALL | changes)
    pyramid = TrunkPyramid(Trunk((8, 16, 32))).freeze()
    return (CleanTargetGlcf if settings.clean_target else Glcf)(settings, pyramid).eval()


def with_block(count: int, seed: int = 0) -> Tensor:
    """Toy images with a bright block that no normal image has."""
    images = toy_images(count, seed=seed)
    images[:, :, 36:56, 8:28] = 250
    return images


def millions(module: nn.Module) -> float:
    """Parameters in millions, to two digits."""
    return round(sum(value.numel() for value in module.parameters()) / 1e6, 2)
