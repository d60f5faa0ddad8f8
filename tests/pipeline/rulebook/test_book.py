"""Writing, reading and editing the YAML of a rule book."""

from pathlib import Path

import numpy as np
import pytest
import toy_rules as toy

from pipeline.errors import ManifestError
from pipeline.rulebook.book import digest_of_file, load
from pipeline.rulebook.draft import Draft


def test_a_book_survives_being_written_and_read(
    file: Path, drafted: tuple[Draft, list[np.ndarray]]
) -> None:
    loaded = load(file)
    assert loaded.book.parts == drafted[0].book.parts
    assert loaded.digest == digest_of_file(file)
    assert file.with_suffix(".png").stat().st_size > 1000
    assert all(not toy.broken(loaded, toy.board(seed)) for seed in range(100, 110))


def test_renaming_and_correcting(copy: Path) -> None:
    before = digest_of_file(copy)
    text = copy.read_text()
    copy.write_text("# mine\n" + text)
    # Comments do not count.
    assert digest_of_file(copy) == before
    copy.write_text(text.replace("part_1:", "disc:").replace("count: 3", "count: [2, 3]"))
    assert digest_of_file(copy) != before
    loaded = load(copy)
    assert loaded.book.parts["disc"].admitted == (2, 3)
    image_HW3 = toy.board(50)
    toy.wipe(image_HW3, *toy.LEFT[1])
    assert toy.broken(loaded, image_HW3) == []
    toy.wipe(image_HW3, *toy.LEFT[0], reach=14)
    assert toy.broken(loaded, image_HW3) == ["disc.count"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("count: 3", "count: [4, 2]", "first number must not be above the second"),
        ("count: 3", "cuont: 3", "did you mean count"),
        ("count: 3", "count: three", "parts.part_1.count"),
        ("examples: 1", "examples: 7", "expected a group from 0 to 1, got 7"),
        ("examples: 1", "examples: 0", "group 0 already belongs to part_1"),
        ("order: true", "order: true\ntogether: [{name: t, parts: [part_1, part_3]}]",
         "no part is called 'part_3'; did you mean part_"),
        ("order: true", "order: true\ntogether: [{name: order, parts: [part_1, part_2]}]",
         "two rules are called 'order'; rename one"),
    ],
)  # fmt: skip
def test_errors_name_file_and_line(copy: Path, old: str, new: str, said: str) -> None:
    text = copy.read_text()
    assert text.count(old) == 1
    copy.write_text(text.replace(old, new))
    line = text[: text.index(old)].count("\n") + 1 + new[: new.rfind("\n") + 1].count("\n")
    with pytest.raises(ManifestError) as caught:
        load(copy)
    assert said in str(caught.value)
    assert any(str(caught.value).startswith(f"{copy}:{k}:") for k in (line, line + 1))


def test_book_and_examples_belong_together(copy: Path) -> None:
    examples = copy.with_suffix(".safetensors")
    examples.write_bytes(examples.read_bytes() + b"\0")
    with pytest.raises(ManifestError, match="copy book and examples together"):
        load(copy)
    examples.unlink()
    with pytest.raises(ManifestError, match="belongs in the rule book's folder"):
        load(copy)
