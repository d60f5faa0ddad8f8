"""Random images of a folder: centre crops, some of them grey, unreadable files skipped."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.data.image_folder import FolderImages
from detectors.data.textures import read_textures
from pipeline.errors import UserError
from pipeline.imaging.decode import load_image
from pipeline.imaging.walk import walk_images


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


def test_images_and_textures_of_a_folder_are_those_of_every_other_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("10.PNG", "2.png", "deep/1.webp", "._2.png", "__MACOSX/2.png", ".cache/3.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
        image.save(tmp_path / "in" / name, lossless=True)
    found = walk_images(tmp_path / "in")
    assert found.names == ["2.png", "10.PNG", "deep/1.webp"]
    assert FolderImages(tmp_path / "in", 32).paths == [tmp_path / "in" / n for n in found.names]
    textures = read_textures(tmp_path / "in", 40)
    for texture, name in zip(textures, found.names, strict=True):
        pixels = load_image(tmp_path / "in" / name)
        np.testing.assert_array_equal(texture.permute(1, 2, 0).numpy(), pixels)
    # Only links that lead out: the reason is told, with the folder that they lead into.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "2.png").symlink_to(tmp_path / "in" / "2.png")
    for read in (lambda: FolderImages(tmp_path / "links", 32).paths,
                 lambda: read_textures(tmp_path / "links", 32)):  # fmt: skip
        with pytest.raises(UserError, match=f"lead out of the folder, into {tmp_path / 'in'}"):
            read()
