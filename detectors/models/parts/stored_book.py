"""A rule book as buffers, so that a checkpoint holds it: the book as JSON, its examples."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detectors.networks.any_shape import AnyShape
from pipeline.rulebook.book import Book, Examples, RuleBook


class StoredBook(AnyShape):
    """`text_L` are the bytes of the JSON: the book, and the digests of the finder's networks."""

    text_L: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("text_L", torch.zeros(0, dtype=torch.uint8))
        for name in Examples.FIELDS:
            self.register_buffer(name, torch.zeros(0))
        self._read: RuleBook | None = None

    def keep(self, book: RuleBook, networks: Mapping[str, str]) -> None:
        """Replace the content."""
        text = json.dumps({"book": book.book.model_dump(mode="json"), "networks": dict(networks)})
        device = self.text_L.device
        self.text_L = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(device)
        for name in Examples.FIELDS:
            value = np.ascontiguousarray(getattr(book.examples, name))
            setattr(self, name, torch.from_numpy(value).to(device))
        # Read back when it is needed, so that a fit and its checkpoint have the same numbers.
        self._read = None

    @property
    def book(self) -> RuleBook:
        """The rule book; only after `keep` or a load."""
        if self._read is None:
            book = Book.model_validate_json(json.dumps(self._content()["book"]), strict=True)
            tensors = {name: getattr(self, name).cpu().numpy() for name in Examples.FIELDS}
            self._read = RuleBook(book, Examples(**tensors), "")
        return self._read

    @property
    def networks(self) -> dict[str, str]:
        """SHA-256 of the networks that found the parts of the fit, by stage."""
        found: dict[str, str] = self._content()["networks"]
        return found

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.text_L.cpu().numpy().tobytes())
        return content

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        self._read = None
        super()._load_from_state_dict(state_dict, prefix, *rest)
