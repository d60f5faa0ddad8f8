"""Load weights files without running code that is stored in them.

A `.pth` file is a pickle, and a pickle may call any function while it is read. So tensors are read
with PyTorch's restricted reader (`weights_only=True`) or as safetensors; both reject anything else
in the file before it is constructed. TorchScript is different: its archive is not unpickled, but it
is a program, which may write files even while it is loaded. Such a file must be a known one (the
weights store checks its digest) or the user's own. See docs/weights.md.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import WeightsError


def load_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors` file or of a PyTorch state dict, on the CPU.

    WeightsError when the file is missing, damaged, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise WeightsError(f"expected weights at {path}, found no such file")
    try:
        # Imported on use: only some of the files are safetensors.
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # Anything at all: a damaged or hostile file can make a parser raise any exception.
    except Exception as error:
        raise WeightsError(_rejected(path, "tensors only")) from error
    # A restricted pickle may still hold lists, numbers or tensors under other keys.
    plain = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not plain:
        raise WeightsError(_rejected(path, "tensors by name (a state dict)"))
    return dict(state)


def load_into(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """Read the file, then build a model and load the state dict into it; all names must match."""
    # The file first: a wrong one is found before a large model is built.
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
    """A TorchScript module in evaluation mode. It is a program: load only known or own files.

    A pickled state dict in its place is rejected without being unpickled.
    """
    if not path.is_file():
        raise WeightsError(f"expected weights at {path}, found no such file")
    try:
        with warnings.catch_warnings():
            # PyTorch warns that TorchScript is deprecated, but the official LaMa comes as one.
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise WeightsError(_rejected(path, "a TorchScript module")) from error


def _rejected(path: Path, expected: str) -> str:
    return (
        f"{path} is rejected: expected {expected}, but it holds something else or is damaged; "
        "nothing in it was run; fetch it again"
    )
