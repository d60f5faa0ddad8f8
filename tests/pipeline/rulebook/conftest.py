"""A rule book drafted from toy boards, shared by the tests of this folder."""

from pathlib import Path

import numpy as np
import pytest
import toy_rules as toy

from pipeline.rulebook.book import RuleBook, load
from pipeline.rulebook.draft import Draft, draft
from pipeline.rulebook.write import write_draft

IMAGES = 14


@pytest.fixture(scope="session")
def drafted() -> tuple[Draft, list[np.ndarray]]:
    images = [toy.board(seed) for seed in range(IMAGES)]
    find = toy.ToyFinder()
    return draft([find(image) for image in images], "board"), images


@pytest.fixture(scope="session")
def file(drafted: tuple[Draft, list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, images = drafted
    path = tmp_path_factory.mktemp("book") / "board.rules.yaml"
    found = [toy.ToyFinder()(image) for image in images]
    write_draft(made, path, found, images.__getitem__)
    return path


@pytest.fixture(scope="session")
def book(file: Path) -> RuleBook:
    return load(file)


@pytest.fixture
def copy(file: Path, tmp_path: Path) -> Path:
    """A copy of the book that a test may edit."""
    for name in (file.name, file.with_suffix(".safetensors").name):
        (tmp_path / name).write_bytes((file.parent / name).read_bytes())
    return tmp_path / file.name
