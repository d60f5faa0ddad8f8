"""Buffers whose shapes depend on the images that a module was fitted on."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class AnyShape(nn.Module):
    """Its own buffers take the shapes (and types) of a state dict; those of submodules do not."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name, buffer in list(self.named_buffers(recurse=False)):
            found = state_dict.get(prefix + name)
            if found is not None and found.shape != buffer.shape:
                setattr(self, name, torch.empty_like(found, device=buffer.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
