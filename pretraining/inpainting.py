"""Train, export and judge the bundled small LaMa.

    python -m pretraining.inpainting --data FOLDER --minutes 80     # writes weights/small_lama.pt
    python -m pretraining.inpainting --evaluate --data FOLDER       # the table of its card

`--data` is a folder of rendered scenes from `pretraining.data`; without it the training uses
scikit-image's photographs alone. Training resumes from `--run`/checkpoint.pt when that exists.
Learning rate and crop size follow the share of the budget that is used up, in steps or in minutes,
whichever runs out first; a run bounded by `--steps` alone is reproducible bit for bit.
"""

import argparse
import copy
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.inpainting_holes import HoleMaker, RenderedScenes, bundled_photographs
from pretraining.inpainting_loss import (
    PatchCritic,
    cells_in_hole,
    gradient_penalty,
    matching_loss,
    pixel_loss,
    spectrum_loss,
    weighted_mean,
)
from pretraining.lama import SmallLama

WEIGHTS = Path(__file__).parent.parent / "weights" / "small_lama.pt"
BATCHES = ((0.0, 128, 8), (0.45, 160, 6), (0.7, 192, 4), (0.85, 256, 3))
"""From this share of the run on: crop size and batch size, at about equal cost."""
CRITIC_FROM = 0.15
"""The critic joins at this share of the run, when fills are worth judging."""
AVERAGE = 0.998


class Trainer:
    """Generator, critic, their optimisers and the averaged weights: all that a checkpoint holds."""

    def __init__(self, seed: int, device: torch.device) -> None:
        torch.manual_seed(seed)
        layout = torch.channels_last
        self.model = SmallLama().to(device).to(memory_format=layout)
        self.critic = PatchCritic().to(device).to(memory_format=layout)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.99))
        self.critic_optimizer = torch.optim.AdamW(self.critic.parameters(), betas=(0.5, 0.99))
        self.rng = np.random.default_rng(seed)
        self.device = device
        self.step = 0
        self.seconds = 0.0

    def advance(self, holes: HoleMaker, progress: float, rate: float) -> dict[str, float]:
        """One step of the generator, and of the critic once it takes part."""
        size, count = next((s, c) for start, s, c in reversed(BATCHES) if progress >= start)
        image, hole, truth = (
            torch.from_numpy(part).to(self.device) for part in holes.batch(self.rng, count, size)
        )
        slope = rate * min(1.0, (self.step + 1) / 200) * (0.02 + 0.98 * cosine(progress))
        for optimizer, factor in ((self.optimizer, 1.0), (self.critic_optimizer, 0.5)):
            for group in optimizer.param_groups:
                group["lr"] = slope * factor
        with torch.autocast(self.device.type, torch.bfloat16):
            filled = self.model.predict(image, hole)
        pixels = pixel_loss(filled, truth, hole)
        spectrum = spectrum_loss(filled, truth, hole)
        losses = {"pixel": pixels, "spectrum": spectrum}
        total = 10 * pixels + 10 * spectrum
        if progress >= CRITIC_FROM:
            # Around the hole both are the input picture, so only the filling can tell them apart.
            fake, real = (hole * p + (1 - hole) * image for p in (filled, truth))
            losses |= self.train_critic(fake.detach(), real, hole)
            self.critic.requires_grad_(False)
            with torch.autocast(self.device.type, torch.bfloat16):
                logits, features = self.critic(fake, hole)
                with torch.no_grad():
                    _, wanted = self.critic(real, hole)
            self.critic.requires_grad_(True)
            losses["fool"] = weighted_mean(F.softplus(-logits.float()), cells_in_hole(hole, logits))
            losses["match"] = matching_loss(features, wanted, hole)
            ramp = min(1.0, (progress - CRITIC_FROM) / 0.1)
            total = total + ramp * (0.15 * losses["fool"] + 2.0 * losses["match"])
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        share = min(AVERAGE, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for averaged, current in pairs:
                averaged.lerp_(current, 1 - share)
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    def train_critic(self, fake: Tensor, real: Tensor, hole: Tensor) -> dict[str, Tensor]:
        """Non-saturating loss on the cells of the hole; R1 every sixteenth step."""
        with torch.autocast(self.device.type, torch.bfloat16):
            on_fake, on_real = self.critic(fake, hole)[0], self.critic(real, hole)[0]
        cells = cells_in_hole(hole, on_fake)
        loss = weighted_mean(F.softplus(on_fake.float()), cells)
        loss = loss + weighted_mean(F.softplus(-on_real.float()), cells)
        total = loss
        if self.step % 16 == 0:
            total = total + 16 * 0.5 * 0.01 * gradient_penalty(self.critic, real, hole)
        self.critic_optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.critic_optimizer.step()
        return {"critic": loss.detach()}

    def parts(self) -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
        return {
            "model": self.model,
            "critic": self.critic,
            "average": self.average,
            "optimizer": self.optimizer,
            "critic_optimizer": self.critic_optimizer,
        }

    def save(self, path: Path) -> None:
        """Write aside, then rename: a checkpoint on disk is always a whole one."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"step": self.step, "seconds": self.seconds}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.step, self.seconds = state["step"], state["seconds"]
        self.rng = np.random.default_rng([self.step, 1])


def cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def export(model: SmallLama, path: Path) -> None:
    """Write the TorchScript file: float32, evaluation mode, any size, plain memory layout."""
    model = copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*")
        torch.jit.script(model).save(str(path.with_suffix(".tmp")))
    path.with_suffix(".tmp").replace(path)


def train(arguments: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scenes = RenderedScenes.open(arguments.data) if arguments.data else None
    holes = HoleMaker(scenes, bundled_photographs())
    trainer = Trainer(arguments.seed, device)
    arguments.run.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.run / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
        print(f"resumed at step {trainer.step}", flush=True)
    budget = 60 * arguments.minutes if arguments.minutes else math.inf
    means: dict[str, float] = {}
    exported = trainer.seconds
    while (progress := max(trainer.step / arguments.steps, trainer.seconds / budget)) < 1:
        start = time.perf_counter()
        losses = trainer.advance(holes, progress, arguments.rate)
        trainer.seconds += time.perf_counter() - start
        for name, value in losses.items():
            means[name] = 0.98 * means.get(name, value) + 0.02 * value
        if trainer.step % 100 == 0:
            line = " ".join(f"{name} {value:.4f}" for name, value in means.items())
            print(f"{trainer.step} {progress:.3f} {trainer.seconds:.0f}s {line}", flush=True)
        if trainer.seconds - exported > 60 * arguments.every:
            exported = trainer.seconds
            trainer.save(checkpoint)
            export(trainer.average, arguments.out)
    trainer.save(checkpoint)
    export(trainer.average, arguments.out)
    print(f"done: {trainer.step} steps, {trainer.seconds:.0f} s, {arguments.out}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of rendered scenes")
    parser.add_argument("--run", type=Path, default=Path("runs/small_lama"))
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--minutes", type=float, help="stop after so many minutes of training")
    parser.add_argument("--every", type=float, default=10, help="minutes between checkpoints")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true", help="print the table of the card")
    parser.add_argument("--sheets", type=Path, help="with --evaluate: write contact sheets here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.evaluate:
        from pretraining.inpainting_evaluation import evaluate

        evaluate(arguments.out, arguments.data, arguments.sheets)
    else:
        train(arguments)


if __name__ == "__main__":
    main()
