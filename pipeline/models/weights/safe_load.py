"""Read weights files without running what a stranger wrote into them.

A `.pth` file is a pickle, and a pickle may call any function while it is read. So tensors are read
with PyTorch's restricted reader (`weights_only=True`) or as safetensors; anything else in the file
is refused before it is built. TorchScript is another matter: its archive is not unpickled, but it
is a program, which may write files even while it is loaded. Such a file must be known (its digest
is checked by `weights.require`) or be the user's own. See docs/weights.md.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import WeightsError


def load_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of a PyTorch state dict, on the CPU."""
    if not path.is_file():
        raise WeightsError(f"expected weights at {path}, found no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes in a parser
        raise WeightsError(_refused(path, "tensors only")) from error
    plain = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not plain:
        raise WeightsError(_refused(path, "tensors by name (a state dict)"))
    return dict(state)


def filled(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """Build a model and fill it from such a file, which is read first; all names must match."""
    state = load_state(path)
    model = build()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"{path} holds the weights of another network: {reason[:200]}; "
            "choose the backend that goes with the file"
        ) from error
    return model


def load_torchscript(path: Path, device: torch.device) -> Any:
    """A TorchScript module in evaluation mode. It is a program: `path` must be known or one's own.

    A pickled state dict in its place is refused and not unpickled.
    """
    if not path.is_file():
        raise WeightsError(f"expected weights at {path}, found no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated; the official file is one
            return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise WeightsError(_refused(path, "a TorchScript module")) from error


def _refused(path: Path, expected: str) -> str:
    return (
        f"{path} is refused: expected {expected}, but it holds something else or is damaged; "
        "nothing in it was run; fetch it again"
    )
