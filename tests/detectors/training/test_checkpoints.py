"""Checkpoints: written and read back equal; damaged or foreign files give a one-line error."""

import json
from pathlib import Path

import pytest
import tiny_detector
import torch
from safetensors.torch import load_file, save_file
from small_results import image_result, small_version

from detectors import registry
from detectors.registry import configure
from detectors.training.checkpoint import CARD, MODEL, load, read_card, settings_of
from detectors.training.job import TrainJob
from detectors.training.trainer import train
from pipeline.errors import IntegrityError, UserError
from pipeline.utils.file_hash import sha256_file


@pytest.fixture(autouse=True, scope="module")
def known() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.DETECTORS, tiny_detector.NAME, tiny_detector.ENTRY)
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = [image_result(number, (64, 64)) for number in range(5)]
    version = small_version(tmp_path_factory.mktemp("store"), results=results, tests=0)
    folder = tmp_path_factory.mktemp("run")
    recipe = configure(tiny_detector.NAME, "tiny", {"steps": 2, "noise": 0.5})
    train(TrainJob(
        recipe=recipe, version=version.dir, out=folder, seed=7, device="cpu", precision="fp32",
        board=False,
    ))  # fmt: skip
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    for name in (CARD, MODEL):
        (tmp_path / name).write_bytes((original / name).read_bytes())
    return tmp_path


def change_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | changes))


def test_the_card_records_detector_settings_and_version(folder):
    card = read_card(folder)
    assert card.detector == "tiny"
    assert (card.seed, card.steps, card.precision, card.processes) == (7, 2, "fp32", 1)
    assert settings_of(card).noise == 0.5
    assert card.schedule["steps"] == 2
    assert card.teacher is not None
    assert card.teacher.name == "small_teacher.safetensors"
    assert card.version.image_size == (64, 64)
    assert card.version.licence == "CC0-1.0"
    assert card.sha256 == sha256_file(folder / MODEL)
    assert str(folder.parent) not in (folder / CARD).read_text()


def test_every_tensor_comes_back_and_the_detector_is_ready(folder):
    restored = load(folder, "cpu")
    assert not restored.detector.training
    # Precision `auto` is that of the training.
    assert restored.compute.dtype == torch.float32
    for name, value in load_file(folder / MODEL).items():
        assert torch.equal(restored.detector.state_dict()[name], value)
    weights = restored.detector.get_parameter("student.0.weight")
    assert weights.is_contiguous(memory_format=torch.channels_last)


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"is no checkpoint: it holds no checkpoint\.json"):
            load(place)


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_card_is_named(folder, keep):
    content = (folder / CARD).read_bytes().rstrip()
    (folder / CARD).write_bytes(content[:keep])
    with pytest.raises(IntegrityError, match=r"checkpoint\.json is damaged"):
        load(folder)


def test_a_card_that_lacks_a_value_is_damaged(folder):
    change_card(folder, seed=None)
    with pytest.raises(IntegrityError, match=r"checkpoint\.json is damaged: seed"):
        load(folder)


@pytest.mark.parametrize("place", [0, 8, 700, -1])
def test_a_flipped_bit_in_the_tensors_is_found(folder, place):
    content = bytearray((folder / MODEL).read_bytes())
    content[place] ^= 1
    (folder / MODEL).write_bytes(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors is damaged: expected SHA-256"):
        load(folder)


def test_missing_tensors_are_named(folder):
    (folder / MODEL).unlink()
    with pytest.raises(IntegrityError, match=r"model\.safetensors is missing"):
        load(folder)


def test_another_format_or_detector_or_setting_is_another_release(folder):
    change_card(folder, format=2)
    with pytest.raises(UserError, match="has checkpoint format 2, this release reads 1"):
        load(folder)
    change_card(folder, format=1, detector="vanished")
    with pytest.raises(UserError, match="no detector is called 'vanished'"):
        load(folder)
    change_card(folder, detector="tiny", settings={"size": 64, "teacher": "x", "colour": 1})
    with pytest.raises(UserError, match="made by another release: colour"):
        load(folder)


def test_tensors_of_another_network_are_rejected(folder):
    state = load_file(folder / MODEL)
    cases = {
        r"it lacks mean": {n: v for n, v in state.items() if n != "mean"},
        r"it has an unknown bank and 1 more": state | {"bank": torch.ones(1), "z": torch.ones(1)},
        r"size mismatch for student\.0\.bias": state | {"student.0.bias": torch.zeros(9)},
    }
    for words, changed in cases.items():
        save_file(changed, folder / MODEL)
        change_card(folder, sha256=sha256_file(folder / MODEL))
        with pytest.raises(UserError, match=words) as caught:
            load(folder)
        assert "\n" not in str(caught.value)
