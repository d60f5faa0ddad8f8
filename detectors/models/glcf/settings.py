"""Settings of GLCF: networks, losses, and the fusion of its maps.

Defaults are the paper's, or those of its released code (the version of June 2023, which matches the
paper's Swin-T model) where the paper is silent.
"""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from detectors.base import DetectorSettings
from detectors.data.source_sampler import SourceSettings
from detectors.models.glcf.networks import Aggregation, UpSampling
from detectors.networks.residual_score import Grids

Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


class GlcfSettings(DetectorSettings, SourceSettings):
    """`clean_share`, `controls` and `kinds` have an effect with `clean_target` only."""

    size: int = Field(
        default=224, ge=64, le=1024, multiple_of=32, description="side of the input image in pixels"
    )
    teacher: Literal[
        "swin-tiny", "wide-resnet50-2", "resnet18", "efficientnet-lite0", "bundled-teacher"
    ] = Field(
        default="swin-tiny", description="weights registry entry loaded into the frozen network"
    )
    # At 224 px one image takes 2.3 MB with Swin-T, at 256 px 0.7 MB with Lite0.
    cache_teacher_gib: float = Field(
        default=2.0,
        ge=0,
        description="cache the teacher's features of the training normals if they fit into this "
        "many GiB; 0: never",
    )
    # Not in the paper.
    standardise: bool = Field(
        default=False,
        description="standardise every channel of the teacher over the training normals, so "
        "that no level dominates the loss",
    )
    bottleneck: bool = Field(
        default=True,
        description="false = the decoders start from the teacher's deepest level; an ablation",
    )
    embedded: tuple[Literal[1, 2, 3], ...] = Field(
        default=(1, 2, 3),
        min_length=1,
        description="levels embedded as tokens, of strides 8, 16, 32; [3] alone is an ablation",
    )
    aggregation: Aggregation = Field(
        default="pss",
        description="wiring of the semantic tokens: pss is the paper's best; none is an ablation",
    )
    tokens_per_position: bool = Field(
        default=False,
        description="learn one semantic token per position; false = one for all positions",
    )
    # Bottleneck sizes of the paper; heads and wiring of the released code.
    width: int = Field(
        default=240, ge=16, multiple_of=4, description="channels of the bottleneck's tokens"
    )
    depth: int = Field(default=6, ge=1, description="transformer blocks in each of its stacks")
    encoder_heads: int = Field(default=12, ge=1, description="attention heads of its encoder")
    decoder_heads: int = Field(default=16, ge=1, description="attention heads of its two decoders")
    up: UpSampling = Field(
        default="dual",
        description="up-sampling in the decoders: dual = the paper's, expand = the released code's",
    )
    # As many as Swin-T's encoder has at these strides.
    blocks: tuple[Count, Count] = Field(
        default=(6, 2), description="Swin blocks of a decoder at stride 16 and at stride 8"
    )
    drop_path: float = Field(
        default=0.1, ge=0, lt=1, description="highest DropPath rate of the decoders"
    )
    # Lambda 1 to 3 of the paper, whose values are those of the released code.
    loss_weights: tuple[Weight, Weight, Weight] = Field(
        default=(1, 1, 1),
        description="weights of the correspondence, local and global estimation losses",
    )
    detach_global_target: bool = Field(
        default=False, description="stop the gradient of the global estimation loss into its target"
    )
    clean_target: bool = Field(
        default=False,
        description="train on synthetic samples; the global branch must rebuild the clean original "
        "(GLCF-D, ours); needs a version's samples",
    )
    global_map: Literal["estimation", "correspondence"] = Field(
        default="estimation",
        description="what the global map compares: estimation = G with its estimate; "
        "correspondence = F with G",
    )
    # The paper weighs deeper levels more; the released scripts disagree on the numbers.
    scale_weights: tuple[Weight, Weight, Weight] = Field(
        default=(1, 3, 6),
        description="weights of the maps of stride 4, 8, 16; divided by their sum",
    )
    # The global maps have higher values, so the local branch gets the larger weight.
    branch_weights: tuple[Weight, Weight] = Field(
        default=(5, 1),
        description="weights of the local and the global branch, divided by their sum; [1, 0] for "
        "textures",
    )
    weights: Literal["stated", "calibrated"] = Field(
        default="stated",
        description="source of these weights: stated = the settings; calibrated = chosen by the "
        "AUROC on validation normals and synthetics, which is optimistic afterwards",
    )
    # Not in the paper.
    score: Literal["deviation", "distance"] = Field(
        default="deviation",
        description="image score: deviation = standard deviation of the fused map, the paper's; "
        "distance = Mahalanobis distance, from those of normals, of the means and deviations of "
        "all maps and of the mean local token, which also finds what an image lacks",
    )
    regions: Grids = ()
    statistics: Literal["train", "validation"] = Field(
        default="train", description="split of the normals that give the maps' mean and deviation"
    )
    # In the paper at 224 px.
    sigma: float = Field(
        default=4.0, gt=0, le=16, description="Gaussian smoothing of the maps, in pixels at 224 px"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="learning rate of AdamW")
    # Epoch 300 of 500.
    drop_at: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="share of the steps after which the learning rate drops to a tenth",
    )

    @field_validator("encoder_heads", "decoder_heads")
    @classmethod
    def _divides_the_width(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("width", 0) % heads:
            raise ValueError(f"heads must divide the width of {info.data['width']}")
        return heads

    @field_validator("scale_weights", "branch_weights")
    @classmethod
    def _not_all_zero(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if not sum(weights):
            raise ValueError("at least one weight must be above zero")
        return weights

    @model_validator(mode="after")
    def _chooses_one_thing(self) -> "GlcfSettings":
        if self.regions and self.weights == "calibrated":
            raise ValueError("weights=calibrated needs regions=[], which choose another score")
        return self

    def sources(self) -> SourceSettings:
        """The settings of the sampler."""
        return self
