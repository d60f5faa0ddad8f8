"""Layers show what is stored: exactly, or with outlines beside what they mark."""

import io

import numpy as np
import pytest
from PIL import Image
from small_results import image_result, small_version

from flows.serve.layers import LAYERS, THUMBNAIL, encoded, layer, small, thumbnail
from pipeline.dataset.shard_reader import ShardReader


@pytest.fixture(scope="module")
def shard(tmp_path_factory) -> ShardReader:
    folder = tmp_path_factory.mktemp("store")
    (found, *_) = small_version(folder, results=[image_result(0, (400, 500))], tests=0).shards
    return found


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_plain_layers_are_exact(shard):
    wanted = {
        "source": shard.original(shard.source(0)),
        "edited": shard.edited(0),
        "mask": np.repeat(shard.mask(0)[..., None] * np.uint8(255), 3, axis=2),
    }
    for name, image_HW3 in wanted.items():
        content, kind = encoded(name, layer(name, shard, 0))
        assert kind == "image/png"
        assert (decoded(content) == image_HW3).all()


def test_the_difference_is_dark_where_nothing_changed(shard):
    changed = (shard.edited(0) != shard.original(shard.source(0))).any(axis=2)
    bright = layer("difference", shard, 0).max(axis=2)
    assert bright[~changed].max() < 10
    assert np.median(bright[changed]) > 100


def test_the_outline_of_a_change_hides_nothing_of_it(shard):
    """It lies outside of the mask, so what was edited is seen as it is."""
    marked, edited, mask = layer("marked", shard, 0), shard.edited(0), shard.mask(0)
    assert (marked[mask] == edited[mask]).all()
    differs = (marked != edited).any(axis=2)
    assert differs.any()
    rows, columns = np.nonzero(mask)
    near = np.zeros_like(mask)
    near[max(0, rows.min() - 4) : rows.max() + 5, max(0, columns.min() - 4) : columns.max() + 5] = 1
    assert not differs[~near].any()


@pytest.mark.parametrize("size", [(24, 19), (400, 500), (1, 1), (3, 900)])
def test_every_layer_of_every_size_can_be_drawn(tmp_path, size):
    (shard,) = small_version(tmp_path, results=[image_result(0, size)], tests=0).shards
    for name in LAYERS:
        content, _ = encoded(name, layer(name, shard, 0))
        height, width, _ = decoded(content).shape
        # Enlarged by a whole number, or not at all.
        assert (height % size[0], width % size[1]) == (0, 0)
        assert height // size[0] == width // size[1]
    for view in ("marked", "edited", "source"):
        content, kind = small(thumbnail(view, shard, 0))
        assert kind in ("image/webp", "image/jpeg")
        assert max(decoded(content).shape) <= max(THUMBNAIL, 3)
