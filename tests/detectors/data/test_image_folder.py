"""Random images of a folder: centre crops, some of them grey, unreadable files skipped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.data.image_folder import FolderImages
from pipeline.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images and one truncated file in two subfolders."""
    rng = np.random.default_rng(0)
    for number in range(5):
        path = tmp_path / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(path)
    (tmp_path / "0" / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no complete image")
    return tmp_path


def test_images_are_the_centres_of_the_files_in_a_folder(folder: Path) -> None:
    found = FolderImages(folder, 32)
    assert len(found.paths) == 6
    torch.manual_seed(0)
    first = found.draw(40, torch.device("cpu"))
    assert first.shape == (40, 3, 32, 32)
    # Unreadable files are skipped.
    centres = []
    for path in found.paths:
        if path.name != "cut.jpg":
            whole = Image.open(path).resize((64, 64), Image.Resampling.BILINEAR)
            centres.append(np.asarray(whole)[16:48, 16:48].transpose(2, 0, 1))
    grey = 0
    for image in first:
        if (image[0] == image[1]).all():
            grey += 1
        else:
            assert any((image.numpy() == centre).all() for centre in centres)
    # Three in ten are grey.
    assert 4 <= grey <= 20
    torch.manual_seed(0)
    assert torch.equal(found.draw(40, torch.device("cpu")), first)


def test_a_folder_without_readable_images_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found none"):
        FolderImages(tmp_path, 32).draw(1, torch.device("cpu"))
    (tmp_path / "cut.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot be read"):
        FolderImages(tmp_path, 32).draw(1, torch.device("cpu"))
