"""What GLCF may be told: networks, losses, and how its maps are put together.

Defaults are the paper's, or those of its released code where the paper is silent (methods.md §8).
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from detectors.base import DetectorSettings
from detectors.data.source_sampler import SourceSettings
from detectors.models.glcf.networks import Aggregation, UpSampling

Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class GlcfSettings(DetectorSettings, SourceSettings):
    """All of it; `clean_share`, `controls` and `kinds` count with `clean_target` only."""

    size: int = Field(
        default=224, ge=64, le=1024, multiple_of=32, description="side of the input, px"
    )
    teacher: Literal["swin-tiny", "wide-resnet50-2", "resnet18", "bundled-teacher"] = Field(
        default="swin-tiny", description="entry of the weights registry that the frozen part reads"
    )
    standardise: bool = Field(
        default=False,
        description="bring every channel of the teacher to mean 0 and deviation 1 over the "
        "training normals, so that no level outweighs the others in the loss",
    )
    bottleneck: bool = Field(
        default=True, description="false = the decoders see the deepest level itself; an ablation"
    )
    embedded: tuple[Literal[1, 2, 3], ...] = Field(
        default=(1, 2, 3),
        min_length=1,
        description="levels that become tokens: strides 8, 16, 32; [3] alone is an ablation",
    )
    aggregation: Aggregation = Field(
        default="pss", description="wiring of the semantic tokens; none is an ablation"
    )
    tokens_per_position: bool = Field(
        default=False, description="a learnable token for every place; false = one for all places"
    )
    width: int = Field(
        default=240, ge=16, multiple_of=4, description="channels of a token of the bottleneck"
    )
    depth: int = Field(default=6, ge=1, description="transformer blocks per stack")
    encoder_heads: int = Field(default=12, ge=1, description="attention heads of its encoder")
    decoder_heads: int = Field(default=16, ge=1, description="attention heads of its two decoders")
    up: UpSampling = Field(
        default="dual",
        description="up-sampling: dual = the paper's, expand = the released code's",
    )
    blocks: tuple[Count, Count] = Field(
        default=(6, 2), description="Swin blocks of a decoder at stride 16 and at stride 8"
    )
    drop_path: float = Field(
        default=0.1, ge=0, lt=1, description="highest DropPath rate of the decoders"
    )
    loss_weights: tuple[Weight, Weight, Weight] = Field(
        default=(1, 1, 1), description="of correspondence, local and global estimation"
    )
    detach_global_target: bool = Field(
        default=False, description="stop the gradient of the global estimation into its target"
    )
    clean_target: bool = Field(
        default=False,
        description="train on forged samples, whose global meaning must rebuild the clean source "
        "(GLCF-D); needs a version's samples",
    )
    global_map: Literal["estimation", "correspondence"] = Field(
        default="estimation",
        description="the global branch compares G with its estimate; correspondence = F with G",
    )
    scale_weights: tuple[Weight, Weight, Weight] = Field(
        default=(1, 3, 6), description="of the maps of stride 4, 8, 16; divided by their sum"
    )
    branch_weights: tuple[Weight, Weight] = Field(
        default=(5, 1),
        description="of the local and the global branch, divided by their sum; [1, 0] for textures",
    )
    weights: Literal["stated", "calibrated"] = Field(
        default="stated",
        description="of branches and scales; calibrated = chosen on validation normals and "
        "synthetics, whose AUROC then flatters",
    )
    statistics: Literal["train", "validation"] = Field(
        default="train", description="normals over which the maps' mean and deviation are taken"
    )
    sigma: float = Field(
        default=4.0, gt=0, le=16, description="Gaussian smoothing of the maps, px at 224 px"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="of AdamW")
    drop_at: float = Field(
        default=0.6, gt=0, le=1, description="share of the steps before the rate falls to a tenth"
    )

    @field_validator("encoder_heads", "decoder_heads")
    @classmethod
    def _divides_the_width(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("width", 0) % heads:
            raise ValueError(f"heads must divide the width, {info.data['width']}")
        return heads

    @field_validator("scale_weights", "branch_weights")
    @classmethod
    def _not_all_zero(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if not sum(weights):
            raise ValueError("one weight at least must be above zero")
        return weights

    def sources(self) -> SourceSettings:
        """What the sampler needs to know."""
        return self
