"""Train, export and judge the bundled small LaMa.

    python -m pretraining.inpainting                    # renders, trains, writes, prints the table
    python -m pretraining.inpainting --minutes 60       # the same against the clock
    python -m pretraining.inpainting --measure-only     # only the table of the card

Examples are rendered into `--folder` first (or named with `--ahead`); training resumes from the
checkpoint there, on a GPU if there is one. A run bounded by `--steps` alone is reproducible. See
`inpainting_loss.py` for what the network is trained for, `inpainting_evaluation.py` for how it is
judged.
"""

import argparse
import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from pretraining.data.examples import open_ahead, render_sets
from pretraining.inpainting.evaluation import evaluate
from pretraining.inpainting.holes import HoleMaker
from pretraining.inpainting.loss import RESNET, Features, in_hole, pixel_loss
from pretraining.inpainting.network import SmallLama
from pretraining.loop import Batches, train

BATCHES = ((0.0, 128, 6), (0.8, 192, 3))
"""From this share of the run on: crop size and batch size, at about equal cost."""
FEATURES = 6.0
"""Weight of the feature distance; at this one, 1 dB of PSNR is worth 0.017 of it."""

Batch = tuple[Tensor, Tensor, Tensor]


def batches_of(folders: list[Path], seed: int) -> Batches:
    """Batches of a step: image, hole and truth as float32 NCHW tensors."""
    holes = HoleMaker([open_ahead(folder) for folder in folders])

    def batch(step: int, progress: float) -> Batch:
        size, count = next((s, c) for start, s, c in reversed(BATCHES) if progress >= start)
        parts = holes.batch(np.random.default_rng([seed, step]), count, size)
        image, hole, truth = (torch.from_numpy(part) for part in parts)
        return image, hole, truth

    return batch


def loss_with(features: Features | None) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    """The loss; without the feature network beside the checkout, pixels alone (it blurs more)."""

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        image, hole, truth = batch
        with torch.autocast(image.device.type, torch.bfloat16, enabled=fast_bfloat16(image)):
            filled, grain = model.predict(image, hole)  # type: ignore[operator]
            pixels = pixel_loss(filled, truth, hole)
            if features is None:
                return {"loss": pixels}
            # What a classifier sees has its grain; the pixels are right on average without it.
            seen = in_hole((filled + grain).clamp(0, 1), truth, hole)
            far = features.to(image.device).distance(seen, truth).mean()
        return {"loss": pixels + FEATURES * far, "pixels": pixels, "features": far}

    return loss


def fast_bfloat16(image: Tensor) -> bool:
    """Vector units with bfloat16 halve a step even where there are no AMX tiles."""
    return image.is_cuda or bool(torch.cpu._is_avx512_bf16_supported())


def export(model: nn.Module, path: Path) -> None:
    """Write the TorchScript file: float32, evaluation mode, any size, plain memory layout."""
    model = copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        torch.jit.script(model).save(str(path.with_suffix(".tmp")))
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--folder", type=Path, default=Path("build/small_lama"), help="checkpoints")
    parser.add_argument("--ahead", type=Path, nargs="*", help="sets rendered ahead")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, help="end the schedule by the clock")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheets", type=Path, help="write contact sheets to look at here")
    parser.add_argument("--measure-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    file = arguments.out / "small_lama.pt"
    if not arguments.measure_only:
        torch.manual_seed(arguments.seed)
        folders = arguments.ahead or render_sets(arguments.folder)
        arguments.out.mkdir(parents=True, exist_ok=True)
        features = Features() if RESNET.is_file() else None
        train(
            SmallLama(), batches_of(folders, arguments.seed), loss_with(features), arguments.steps,
            arguments.folder, rate=arguments.rate, minutes=arguments.minutes, seed=arguments.seed,
            average=0.996, warm_up=60, save_minutes=4,
            on_save=lambda averaged, step: export(averaged, file),
        )  # fmt: skip
    evaluate(file, arguments.sheets)


if __name__ == "__main__":
    main()
