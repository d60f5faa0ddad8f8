"""Settings of PUAD, which LA-EAD extends."""

from typing import Annotated, Literal

from pydantic import Field

from detectors.models.efficientad.settings import EfficientAdSettings
from detectors.networks.fusion import Rule
from detectors.networks.mahalanobis import Covariance


class PuadSettings(EfficientAdSettings):
    """Defaults are those of the paper and its released code."""

    # As in the released code.
    covariance: Covariance = Field(
        default="ledoit_wolf",
        description="estimator of the feature covariance; ledoit_wolf also works with fewer "
        "training normals than feature dimensions",
    )
    ridge: float = Field(
        default=1e-3,
        gt=0,
        description="for sample_ridge: share of the mean variance added to the diagonal",
    )
    # The released code takes the root.
    mahalanobis_sqrt: bool = Field(
        default=True,
        description="use the distance; false = its square, whose heavy tail outweighs the map's "
        "score",
    )
    fusion_weight: float = Field(
        default=0.5, ge=0, le=1, description="weight of the map's score; the distance has the rest"
    )
    fusion: Rule = Field(
        default="sum",
        description="sum = both scores are added, as published; max = the larger one counts, for "
        "anomalies that only one of the two sees",
    )
    tune_fusion: bool = Field(
        default=False,
        description="choose fusion_weight, and with networks=frozen what is pooled, on normals and "
        "synthetic anomalies that the fit has not seen",
    )
    networks: Literal["trained", "frozen"] = Field(
        default="trained",
        description="trained = the published networks; frozen = no training: the map is the "
        "distance to the nearest patch of a normal, features are those of the frozen backbone",
    )
    bank: int = Field(
        default=10_000,
        ge=1,
        description="networks=frozen: patches of normal images in the memory",
    )
    regions: tuple[Annotated[int, Field(ge=1, le=8)], ...] = Field(
        default=(1,),
        min_length=1,
        description="networks=frozen: regions per side that features may be pooled over, of which "
        "synthetic anomalies choose; 1 = the whole image, as published; with more the place of a "
        "part matters, and the most distant region counts",
    )

    def trains(self) -> bool:
        return self.networks == "trained"
