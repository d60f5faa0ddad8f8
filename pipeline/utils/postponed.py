"""Imports of a library that are put off until the function they are for is called.

Some libraries import a hundred megabytes for a function that our use of them never calls.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def postponed(functions: Mapping[str, str]) -> Iterator[None]:
    """Inside, `from MODULE import FUNCTION` gives one that imports the real module when called.

    `functions` are names of functions by the name of their module. Modules that are imported
    already stay as they are. Use it around the import of the library that asks for them.
    """
    placed = []
    for module, name in functions.items():
        if module not in sys.modules:
            sys.modules[module] = _stand_in(module, name)
            placed.append(module)
    try:
        yield
    finally:
        for module in placed:
            del sys.modules[module]


def _stand_in(module: str, name: str) -> ModuleType:
    """A module with that one function."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(module), name)(*args, **kwargs)

    found = ModuleType(module, "Stands for the module of that name until it is needed.")
    setattr(found, name, call)
    return found
