"""An EfficientAD small enough for tests of some seconds."""

import torch

from detectors.models.efficientad.model import EfficientAd
from detectors.models.efficientad.settings import EfficientAdSettings
from detectors.registry import assemble


def small_efficientad(**changes: object) -> EfficientAd:
    """A detector of about ten thousand parameters for images of 64 px, with fixed weights."""
    settings = EfficientAdSettings(
        size=64, teacher="bundled-teacher", pdn="small", width=0.125, autoencoder_width=0.25,
        learning_rate=2e-3,
    ).model_copy(update=changes)  # fmt: skip
    torch.manual_seed(0)
    detector = assemble("efficientad", settings)
    assert isinstance(detector, EfficientAd)
    return detector
