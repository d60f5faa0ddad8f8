"""How `weights/small_teacher.safetensors` was made: ImageNet ResNet-18 features, distilled.

    python -m pretraining.teacher --teacher ../shared/weights/resnet18_layers1-3.safetensors

A slim trunk learns to reproduce, level by level, the features of the ResNet-18 for the same image.
One 1x1 convolution per level maps its features to the teacher's, which are standardised per channel
by statistics of the training images (as in EfficientAD, Batzner et al., WACV 2024). These
projections are dropped on saving. Detectors see the bare features, so the distances between them
are distilled as well (relational distillation, Park et al., CVPR 2019). The trunk starts from a
selection of the teacher's own filters (`pretraining/teacher/filter_selection.py`).

Images: products and clutter rendered ahead, and photographs of scikit-image; never MVTec.
The command resumes from `--folder`, exports after every checkpoint and ends with the table.
Shapes: B batch; C channels; h, w cells; N sampled cells; H, W image; 3 colour (RGB).
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from pipeline.models.backbone import (
    SMALL_CHANNELS,
    Levels,
    Trunk,
    normalise,
    resnet18_trunk,
    save_trunk,
)
from pipeline.models.device import choose
from pretraining.data.examples import open_ahead, render_sets
from pretraining.loop import to_device, train
from pretraining.teacher.filter_selection import inherit
from pretraining.teacher.images import CropSampler

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "small_teacher.safetensors"
TEACHER = Path("../shared/weights/resnet18_layers1-3.safetensors")
# Until this share of the run: crop size, images in a batch. Small crops first are cheaper; the cost
# of a batch stays about the same.
SIZES: tuple[tuple[float, int, int], ...] = ((0.6, 128, 16), (1.0, 192, 8))
# Weight of the loss on distances between cells, and number of cells per batch that are compared.
RELATION, CELLS = 5.0, 512
# Batches over which mean and deviation of the teacher's channels are measured.
MOMENTS = 40
# The last images of every set are held out for the table.
HELD_OUT = 100


class Distiller(nn.Module):
    """The student, its projections, and the teacher's moments: the content of a checkpoint."""

    def __init__(self, student: Trunk, wide: tuple[int, int, int]) -> None:
        super().__init__()
        self.student = student
        self.projections = nn.ModuleList(
            nn.Conv2d(slim, full, 1) for slim, full in zip(student.channels, wide, strict=True)
        )
        for level, full in enumerate(wide):
            self.register_buffer(f"mean{level}", torch.zeros(1, full, 1, 1))
            self.register_buffer(f"deviation{level}", torch.ones(1, full, 1, 1))

    def forward(self, images_B3HW: Tensor) -> tuple[Levels, list[Tensor]]:
        """Bare features, and the predicted standardised features of the teacher; both float32."""
        bare = self.student(images_B3HW)
        predicted = [project(level) for project, level in zip(self.projections, bare, strict=True)]
        # Losses need float32; autocast makes the features bfloat16.
        fine, middle, coarse = (level.float() for level in bare)
        return (fine, middle, coarse), [level.float() for level in predicted]

    def standardised(self, levels: Levels) -> list[Tensor]:
        """The teacher's features with mean 0 and deviation 1 in every channel."""
        return [
            (features - self.get_buffer(f"mean{level}")) / self.get_buffer(f"deviation{level}")
            for level, features in enumerate(levels)
        ]


def loss_against(teacher: Trunk) -> Callable[[nn.Module, Tensor], dict[str, Tensor]]:
    """The training loss: squared error, cosine and distances, averaged over the three levels."""

    def loss(model: nn.Module, images_B3HW: Tensor) -> dict[str, Tensor]:
        assert isinstance(model, Distiller)
        device = images_B3HW.device.type
        with torch.no_grad():
            fine, middle, coarse = (level.float() for level in teacher(images_B3HW))
        bare, predicted = model(images_B3HW)
        wanted = model.standardised((fine, middle, coarse))
        # Distances and cosines lose too much precision in bfloat16.
        with torch.autocast(device, enabled=False):
            pairs = list(zip(predicted, wanted, strict=True))
            squared = torch.stack([F.mse_loss(one, other) for one, other in pairs])
            angle = torch.stack(
                [1 - F.cosine_similarity(one, other).mean() for one, other in pairs]
            )
            apart = torch.stack(
                [relation(own, its) for own, its in zip(bare, (fine, middle, coarse), strict=True)]
            )
        parts = {"squared": squared.mean(), "angle": angle.mean(), "apart": apart.mean()}
        total = parts["squared"] + parts["angle"] + RELATION * parts["apart"]
        # Shown in the progress bar only.
        each = {f"angle{level + 1}": value for level, value in enumerate(angle)}
        return {"loss": total, **parts, **each}

    return loss


def relation(own_BChw: Tensor, its_BChw: Tensor) -> Tensor:
    """Relational loss: pairwise distances of the same cells in two feature maps, in units of their
    mean.
    """
    cells = own_BChw.shape[0] * own_BChw.shape[2] * own_BChw.shape[3]
    # All pairs of all cells would not fit into memory.
    chosen_N = torch.randperm(cells, device=own_BChw.device)[:CELLS]
    own_NN, its_NN = (
        torch.cdist(features_NC, features_NC)
        for features_NC in (
            maps.permute(0, 2, 3, 1).reshape(cells, -1)[chosen_N] for maps in (own_BChw, its_BChw)
        )
    )
    return F.smooth_l1_loss(own_NN / own_NN.mean(), its_NN / its_NN.mean())


def batches_of(crops: CropSampler, seed: int) -> Callable[[int, float], Any]:
    """Normalised batches (B, 3, S, S); each depends on seed and step alone."""

    def batch(step: int, progress: float) -> Tensor:
        size, count = next((s, n) for until, s, n in SIZES if progress < until or until == 1)
        rng = np.random.default_rng([seed, step])
        return normalise(torch.from_numpy(crops.batch(rng, count, size)))

    return batch


@torch.no_grad()
def measure_moments(model: Distiller, teacher: Trunk, batches: Callable[[int, float], Any]) -> None:
    """Mean and deviation of every teacher channel, over batches that training does not repeat."""
    compute = choose()
    sums = [torch.zeros(2, channels, device=compute.device) for channels in teacher.channels]
    counts = [0, 0, 0]
    for step in range(MOMENTS):
        with compute.autocast():
            # Step numbers far beyond any run: these batches are not trained on.
            levels = teacher(to_device(batches(1_000_000_000 + step, 1.0), compute.device))
        for level, features in enumerate(features.float() for features in levels):
            sums[level] += torch.stack([features.sum((0, 2, 3)), features.square().sum((0, 2, 3))])
            counts[level] += features[:, 0].numel()
    for level, (total_2C, count) in enumerate(zip(sums, counts, strict=True)):
        mean_C, square_C = (total_2C / count).cpu()
        model.get_buffer(f"mean{level}").copy_(mean_C.view(1, -1, 1, 1))
        # Channels that never fire keep a tiny deviation instead of dividing by zero.
        deviation_C = (square_C - mean_C.square()).clamp(min=1e-6).sqrt()
        model.get_buffer(f"deviation{level}").copy_(deviation_C.view(1, -1, 1, 1))


@torch.no_grad()
def fit_projections(model: Distiller, teacher: Trunk, images_B3HW: Tensor) -> None:
    """Initialise the projections by least squares, which saves the first training steps."""
    # Train mode: the student's batch norms use the statistics of this batch.
    model.train()
    device = teacher.conv1.weight.device
    bare, _ = model.to(device)(images_B3HW.to(device))
    wanted = model.standardised(teacher(images_B3HW.to(device)))
    for project, own_BChw, its_BChw in zip(model.projections, bare, wanted, strict=True):
        assert isinstance(project, nn.Conv2d)
        assert project.bias is not None
        own_NC, its_NC = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (own_BChw, its_BChw))
        # A column of ones fits the bias along with the weights.
        given_NC = torch.cat((own_NC, torch.ones_like(own_NC[:, :1])), 1)
        # Slight ridge regression: two channels of a random start can be nearly equal.
        square_CC = given_NC.T @ given_NC
        square_CC += 1e-3 * square_CC.diagonal().mean() * torch.eye(len(square_CC), device=device)
        solved_CC = torch.linalg.solve(square_CC, given_NC.T @ its_NC)
        project.weight.copy_(solved_CC[:-1].T[..., None, None])
        project.bias.copy_(solved_CC[-1])


@torch.no_grad()
def table(model: Distiller, teacher: Trunk, held_out: dict[str, np.ndarray]) -> None:
    """Print the cosine of projected and true features on held-out images, per level."""
    # On the CPU in fp32, so that the table does not depend on the machine.
    compute = choose("cpu", "fp32")
    model.to(compute.device).eval()
    teacher.to(compute.device)
    for name, images_NHW3 in held_out.items():
        cosines: list[list[float]] = [[], [], []]
        for at in range(0, len(images_NHW3), 10):
            images_BHW3 = np.array(images_NHW3[at : at + 10])
            images_B3HW = normalise(torch.from_numpy(images_BHW3).permute(0, 3, 1, 2))
            predicted = model(images_B3HW)[1]
            for level, wanted in enumerate(model.standardised(teacher(images_B3HW))):
                cosines[level] += (
                    F.cosine_similarity(predicted[level], wanted).mean((1, 2)).tolist()
                )
        fine, middle, coarse = (float(np.mean(level)) for level in cosines)
        print(f"{name}, {len(images_NHW3)} held out: cosine to the ResNet-18, standardised: "
              f"layer1 {fine:.3f}, layer2 {middle:.3f}, layer3 {coarse:.3f}")  # fmt: skip


def origin_of(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file (source, licence); empty for other formats."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="ResNet-18, safetensors")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--folder", type=Path, default=Path("build/teacher"), help="checkpoints")
    parser.add_argument("--ahead", type=Path, nargs="*", help="sets rendered ahead")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="end the schedule by the clock")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    teacher = resnet18_trunk(args.teacher).to(choose().device)
    teacher.to(memory_format=torch.channels_last)
    origin = origin_of(args.teacher)
    folders = args.ahead or render_sets(args.folder)
    sets = {folder.name: open_ahead(folder)["images"] for folder in folders}
    # A small set, as in tests, holds out half.
    kept = {name: len(images) - min(HELD_OUT, len(images) // 2) for name, images in sets.items()}
    crops = CropSampler([images[: kept[name]] for name, images in sets.items()])
    batches = batches_of(crops, args.seed)

    student = Trunk(SMALL_CHANNELS)
    model = Distiller(student, teacher.channels)
    if not (args.folder / "last.pt").exists():
        # A resumed run has moments and projections in its checkpoint.
        measure_moments(model, teacher, batches)
        first_B3HW = batches(2_000_000_000, 0.0)
        inherit(student, teacher, first_B3HW)
        fit_projections(model, teacher, first_B3HW)

    def export(averaged: nn.Module, step: int) -> None:
        assert isinstance(averaged, Distiller)
        metadata = {
            # The student derives from the teacher's weights, so it inherits their licence.
            "license": origin.get("license", "unknown"),
            "teacher": f"ImageNet ResNet-18: {origin.get('source', 'unknown')}",
            "steps": str(step), "seed": str(args.seed),
        }  # fmt: skip
        save_trunk(averaged.student, args.out, metadata)

    averaged = train(
        model, batches, loss_against(teacher), args.steps, args.folder, rate=args.rate,
        minutes=args.minutes, seed=args.seed, average=0.998, warm_up=100, on_save=export,
    )  # fmt: skip
    assert isinstance(averaged, Distiller)
    table(averaged, teacher, {name: images[kept[name] :] for name, images in sets.items()})


if __name__ == "__main__":
    main()
