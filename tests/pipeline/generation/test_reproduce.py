"""`verify --regenerate`: samples are generated again as recorded, or the reason why not is told."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from small_photos import draw_parts

from flows.jobs.generate import generate
from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.dataset.version import open_version
from pipeline.errors import UserError
from pipeline.generation.reproduce import models_of, regenerate
from pipeline.generation.stored_images import StoredImages
from pipeline.models import build as models
from pipeline.models import device as devices
from pipeline.models.settings import ModelSettings, ProposalSettings
from pipeline.utils.file_hash import sha256_file


@pytest.fixture(scope="module")
def made_in_bf16(tmp_path_factory) -> Path:
    """A version made where `auto` means bfloat16, as on a CPU with AMX."""
    photos = draw_parts(tmp_path_factory.mktemp("photos") / "parts", 8)
    manifest = manifest_for_source(
        "folder", photos, store=str(tmp_path_factory.mktemp("store")), image_size=128,
        models={"inpaint": {"backend": "telea"}, "device": "cpu"}, edits={"per_image": 3},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "multiplies_bf16", lambda: True)
        version_dir = generate(resolve(manifest, "parts"), workers=1).version_dir
    models._resident.cache_clear()  # its models believe in AMX
    return version_dir


def changed(version: Path, tmp_path: Path, **software: str) -> Path:
    """A copy whose index tells another story about its making."""
    copy = shutil.copytree(version, tmp_path / version.name)
    index = json.loads((copy / "index.json").read_text())
    index["software"] |= software
    (copy / "index.json").write_text(json.dumps(index))
    return copy


def test_the_recorded_dtype_is_used_whatever_is_fast_here(made_in_bf16, monkeypatch):
    index = json.loads((made_in_bf16 / "index.json").read_text())
    assert index["settings"]["models"]["precision"] == "auto"
    assert index["software"]["compute"] == "CPU, bfloat16"
    monkeypatch.setattr(devices, "multiplies_bf16", lambda: False)
    count, differ = regenerate(made_in_bf16, 4)
    assert (count, differ) == (4, [])


def test_plans_that_depend_on_part_kinds_are_made_again(made_in_bf16):
    """The kinds are learned again from the stored images, embedded anew."""
    version = open_version(made_in_bf16)
    without, images = StoredImages(version), StoredImages(version, models_of(version).embed)
    assert without.part_kinds() is None
    assert images.part_kinds() is not None
    samples = sum(shard.samples for shard in version.shards)
    assert regenerate(made_in_bf16, samples) == (samples, [])


def test_another_dtype_gives_other_masks_and_the_difference_is_explained(made_in_bf16, tmp_path):
    copy = changed(made_in_bf16, tmp_path, compute="CPU, float32", numpy="1.0")
    _, differ = regenerate(copy, 12)
    assert differ, "fp32 and bf16 gave the same masks: this test needs other images"
    assert "the proposals differ" in differ[0]
    assert "numpy was 1.0, is" in differ[0]


def test_what_cannot_be_regenerated_here_is_a_user_error(made_in_bf16, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    elsewhere = changed(made_in_bf16, tmp_path, compute="NVIDIA H200, bfloat16")
    with pytest.raises(UserError, match="made on NVIDIA H200, and this machine has no CUDA"):
        regenerate(elsewhere, 1)
    shutil.rmtree(elsewhere)
    silent = changed(made_in_bf16, tmp_path, compute="")
    with pytest.raises(UserError, match="does not say on which device"):
        regenerate(silent, 1)


def test_a_weights_file_is_found_by_its_digest_wherever_it_lies(
    made_in_bf16, tmp_path, monkeypatch
):
    from pipeline.models.weights import store as weights

    bundled = tmp_path / "bundled"
    shutil.copytree(weights.BUNDLED, bundled)
    kept = tmp_path / "kept"
    kept.mkdir()
    shutil.copy(bundled / "small_sam.safetensors", kept)
    (bundled / "small_sam.safetensors").write_bytes(b"a later release's")
    sums = (bundled / "SHA256SUMS").read_text()
    before, now = (sha256_file(place / "small_sam.safetensors") for place in (kept, bundled))
    (bundled / "SHA256SUMS").write_text(sums.replace(before, now))
    monkeypatch.setattr(weights, "BUNDLED", bundled)
    monkeypatch.delenv("ANOMALYSMITH_WEIGHTS", raising=False)
    with pytest.raises(UserError, match="expected proposals/small"):
        regenerate(made_in_bf16, 1)
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(kept))
    assert regenerate(made_in_bf16, 2) == (2, [])


def test_an_object_of_a_donor_image_is_pasted_again(tmp_path):
    photos = tmp_path / "photos" / "parts"
    photos.mkdir(parents=True)
    # Two kinds, as a part may be replaced by one of another kind only.
    for number in range(10):
        rng = np.random.default_rng(number)
        image_HW3 = (205 + rng.normal(0, 3, (128, 128, 3))).astype(np.uint8)
        (x, y), (u, v) = rng.integers(-6, 7, (2, 2)).tolist()
        cv2.circle(image_HW3, (36 + x, 40 + y), 14, (40, 40, 150), -1)
        cv2.rectangle(image_HW3, (78 + u, 76 + v), (102 + u, 100 + v), (130, 70, 30), -1)
        cv2.imwrite(str(photos / f"{number:03d}.png"), image_HW3)
    manifest = manifest_for_source(
        "folder", photos, store=str(tmp_path / "store"), image_size=128, splits={"seed": 0},
        models={"inpaint": {"backend": "telea"}, "device": "cpu"},
        edits={"per_image": 3, "kinds": ["wrong_type"], "controls_per_image": 0},
        gate={"min_swap_delta_e": 0.0, "min_delta_e": 0.0, "min_changed_fraction": 0.0},
    )  # fmt: skip
    version = open_version(generate(resolve(manifest, "parts"), workers=1).version_dir)
    records = [record for *_, record in version.samples()]
    assert any("donor" in record["edit"]["parameters"] for record in records)
    assert regenerate(version.dir, len(records)) == (len(records), [])


def test_what_a_server_inpainted_cannot_be_regenerated(made_in_bf16, tmp_path):
    copy = shutil.copytree(made_in_bf16, tmp_path / made_in_bf16.name)
    index = json.loads((copy / "index.json").read_text())
    index["weights"]["inpaint/remote:lama_cleaner:lama"] = "none"
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="ran on a server"):
        regenerate(copy, 1)


def test_both_networks_of_the_foreground_are_found_again(pulled, tmp_path, monkeypatch):
    """An index names them in the order of the alphabet; the official one still comes first."""
    shutil.copy(pulled("u2netp"), tmp_path)
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(tmp_path))
    used = models.resolve(ModelSettings())
    assert used.second_foreground[0] == "bundled"
    index = {
        "weights": dict(sorted(used.digests().items())),
        "settings": {
            "models": ModelSettings().content(),
            "proposals": ProposalSettings().model_dump(mode="json"),
        },
        "software": {"compute": "CPU, float32"},
    }
    found = models_of(SimpleNamespace(index=index)).files
    assert found.foreground == ("u2netp", tmp_path / "u2netp.onnx")
    assert found.second_foreground == used.second_foreground
