"""Toy images and a minimal training loop for detectors that learn from pairs."""

import torch


def parameter_count(module: torch.nn.Module) -> int:
    """Number of parameters, frozen ones included."""
    return sum(p.numel() for p in module.parameters())


def toy_images(batch: int = 8, size: int = 64) -> torch.Tensor:
    """(B, 3, size, size) uint8: discs on a background, both of a random colour per image."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((y % 16 - 8) ** 2 + (x % 16 - 8) ** 2 < 25)[None]
    random = torch.Generator().manual_seed(1)
    colours = torch.randint(0, 256, (batch, 2, 3, 1, 1), generator=random)
    return torch.where(inside, colours[:, 0], colours[:, 1]).to(torch.uint8)


def overfit(detector, batch: dict, steps: int) -> list[float]:
    """Train on one batch; the total loss of every step."""
    optimizer, schedule = detector.optimizer(steps)
    totals = []
    for step in range(steps):
        # Four corruptions in turn, so the loss can fall quickly.
        torch.manual_seed(step % 4)
        detector.train()
        total = sum(detector.losses(batch, step, steps).values())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        schedule.step()
        totals.append(float(total.detach()))
    return totals
