"""Imports of a library that are put off until the function they are for is called.

Some libraries import a hundred megabytes for a function that our use of them never calls.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def postponed(functions: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Inside, `from MODULE import FUNCTION` gives one that imports the real module when called.

    `functions` are the names of functions by the name of their module. Modules that are imported
    already stay as they are. Use it around the import of the library that asks for them.
    """
    placed = []
    for module, names in functions.items():
        if module not in sys.modules:
            sys.modules[module] = _stand_in(module, names)
            placed.append(module)
    try:
        yield
    finally:
        for module in placed:
            del sys.modules[module]


def _stand_in(module: str, names: Sequence[str]) -> ModuleType:
    """A module with these functions."""
    found = ModuleType(module, "Stands for the module of that name until it is needed.")
    for name in names:
        setattr(found, name, _on_call(module, name))
    return found


def _on_call(module: str, name: str) -> Callable[..., Any]:
    """A function that imports the one it stands for, and calls that."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call
