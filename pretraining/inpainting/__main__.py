"""Train, export and evaluate the bundled small LaMa.

    python -m pretraining.inpainting                    # renders, trains, writes, prints the table
    python -m pretraining.inpainting --minutes 60       # the same with a time limit
    python -m pretraining.inpainting --measure-only     # only the table of the card

Examples are rendered into `--folder` first (or given with `--ahead`); training resumes from the
checkpoint there, on a GPU if there is one. A run limited by `--steps` alone is reproducible. See
`loss.py` for the training objective and `evaluation.py` for the measures.
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

# From this share of the run on: crop size and batch size, at about equal cost.
BATCHES = ((0.0, 128, 6), (0.8, 192, 3))
# Weight of the feature distance: 1 dB of PSNR counts as much as a distance of 0.017.
FEATURES = 6.0

Batch = tuple[Tensor, Tensor, Tensor]


def batches_of(folders: list[Path], seed: int) -> Batches:
    """Batches by step: image, hole and truth as float32 NCHW tensors, values 0 to 1."""
    holes = HoleMaker([open_ahead(folder) for folder in folders])

    def batch(step: int, progress: float) -> Batch:
        size, count = next((s, c) for start, s, c in reversed(BATCHES) if progress >= start)
        parts = holes.batch(np.random.default_rng([seed, step]), count, size)
        image, hole, truth = (torch.from_numpy(part) for part in parts)
        return image, hole, truth

    return batch


def loss_with(features: Features | None) -> Callable[[nn.Module, Batch], dict[str, Tensor]]:
    """The loss; the pixel term alone (blurrier) without the feature network beside the checkout."""

    def loss(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        image, hole, truth = batch
        with torch.autocast(image.device.type, torch.bfloat16, enabled=fast_bfloat16(image)):
            filled, noise = model.predict(image, hole)  # type: ignore[operator]
            pixels = pixel_loss(filled, truth, hole)
            if features is None:
                return {"loss": pixels}
            # Features are compared with the synthetic noise, which a real image has as well. Pixels
            # are compared without it: noise can only be right on average.
            seen = in_hole((filled + noise).clamp(0, 1), truth, hole)
            far = features.to(image.device).distance(seen, truth).mean()
        return {"loss": pixels + FEATURES * far, "pixels": pixels, "features": far}

    return loss


def fast_bfloat16(image: Tensor) -> bool:
    """Whether bfloat16 pays off: AVX-512 BF16 halves the time of a step even without AMX."""
    return image.is_cuda or bool(torch.cpu._is_avx512_bf16_supported())


def export(model: nn.Module, path: Path) -> None:
    """Write the TorchScript file: float32, eval mode, any image size, contiguous memory layout."""
    model = copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():
        # TorchScript is deprecated in favour of torch.export; LaMa servers still load it.
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        # Write aside and rename, so that a reader never sees half a file.
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
    parser.add_argument("--sheets", type=Path, help="write contact sheets to this folder")
    parser.add_argument("--measure-only", action="store_true")
    arguments = parser.parse_args()
    # One thread: bit-equal repetition, and other processes share the machine.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    file = arguments.out / "small_lama.pt"
    if not arguments.measure_only:
        torch.manual_seed(arguments.seed)
        folders = arguments.ahead or render_sets(arguments.folder)
        arguments.out.mkdir(parents=True, exist_ok=True)
        # Shared by all steps; frozen, so it is in no checkpoint.
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
