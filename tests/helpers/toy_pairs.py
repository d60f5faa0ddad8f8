"""Toy images and a bare training loop for the detectors that learn from pairs."""

import torch


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def toys(batch: int = 8, size: int = 64) -> torch.Tensor:
    """Discs on a ground, the colours different from picture to picture."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((y % 16 - 8) ** 2 + (x % 16 - 8) ** 2 < 25)[None]
    random = torch.Generator().manual_seed(1)
    colours = torch.randint(0, 256, (batch, 2, 3, 1, 1), generator=random)
    return torch.where(inside, colours[:, 0], colours[:, 1]).to(torch.uint8)


def trained(detector, batch: dict, steps: int) -> list[float]:
    """Total losses of a plain training."""
    optimizer, schedule = detector.optimizer(steps)
    totals = []
    for step in range(steps):
        torch.manual_seed(step % 4)
        detector.train()
        total = sum(detector.losses(batch, step, steps).values())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        schedule.step()
        totals.append(float(total.detach()))
    return totals
