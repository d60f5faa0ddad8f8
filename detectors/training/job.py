"""One training as a record: what is trained on what, how it runs, and where the checkpoint goes.

    job = TrainJob(recipe=configure("laead", "tiny"), version=version.dir, out=Path("out/run"))
    report = train(job)                                         # detectors.training.trainer

`TrainJob` is the only list of training options. The command `anomalysmith train` and the flow
`train-detectors` spell out the same names and defaults, because their frameworks read signatures; a
test compares them with this record. Importing this module does not import PyTorch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detectors.registry import Recipe

# Modes of torch.compile; `reduce-overhead` records CUDA graphs.
COMPILE_MODES = ("off", "default", "reduce-overhead")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainJob:
    """Settings of one training.

    `recipe`      the detector with its resolved settings and schedule
    `version`     folder of the dataset version
    `out`         folder of the checkpoint
    `seed`        random seed of weights, batches and losses
    `device`      `auto`, `cpu`, `cuda` or `cuda:N`
    `precision`   `auto`, `fp32`, `tf32` or `bf16`
    `compile`     one of `COMPILE_MODES`
    `workers`     processes that read images; 0 reads in the training process
    `threads`     threads of PyTorch on a CPU; None: as many as CPUs are free
    `teacher`     weights of the frozen network; None: the file that the weights registry finds
    `reviews`     decisions of people about the version (docs/review.md); None: all samples count
    `start`       checkpoint whose fitting tensors are copied before the first step
    `save_every`  steps between two resume states; None: by the clock
    `board`       write TensorBoard event files
    """

    recipe: "Recipe"
    version: Path
    out: Path
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: str = "off"
    workers: int = 0
    threads: int | None = None
    teacher: Path | None = None
    reviews: Path | None = None
    start: Path | None = None
    save_every: int | None = None
    board: bool = True


@dataclass(frozen=True, slots=True)
class TrainReport:
    """The result of a training.

    `validation` is JSON: the calibration, with loss, best step and precision parity. `rates` has
    steps and images per second of this process, and is empty when nothing was trained.
    """

    checkpoint: Path
    steps: int
    seconds: float
    validation: dict[str, Any] = field(default_factory=dict)
    stopped_early: bool = False
    rates: dict[str, float] = field(default_factory=dict)
