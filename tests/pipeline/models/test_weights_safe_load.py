"""A weights file is data: no pickle from outside is ever executed, whatever its file name.

Each hostile file here creates a file when it is unpickled; the first test proves that.
"""

import ast
import pickle
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import WeightsError
from pipeline.models import build as models
from pipeline.models.weights.safe_load import load_into, load_state, load_torchscript

CPU = torch.device("cpu")
ROOMS = ("pipeline", "flows", "detectors", "scenes", "pretraining", "benchmarks")
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


class Trap:
    """When unpickled, it creates a file."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return (open, (str(self.place), "w"))


@pytest.fixture
def trap(tmp_path):
    return Trap(tmp_path / "it-ran")


def as_state_dict(trap, path):
    torch.save({"weight": torch.ones(1), "evil": trap}, path)


def as_old_state_dict(trap, path):
    torch.save({"evil": trap}, path, _use_new_zipfile_serialization=False)


def as_bare_pickle(trap, path):
    path.write_bytes(pickle.dumps(trap, 2))


def as_torchscript(trap, path):
    """A real TorchScript archive with its pickled data replaced."""
    torch.jit.script(nn.Identity()).save(str(path.with_suffix(".good")))
    with zipfile.ZipFile(path.with_suffix(".good")) as good, zipfile.ZipFile(path, "w") as evil:
        for name in good.namelist():
            hostile = name.endswith("/data.pkl")
            evil.writestr(name, pickle.dumps(trap, 2) if hostile else good.read(name))


HOSTILE = [as_state_dict, as_old_state_dict, as_bare_pickle]


@pytest.mark.parametrize("write", HOSTILE)
def test_the_trap_works_when_it_is_unpickled(write, trap, tmp_path):
    """Otherwise the tests below would prove nothing."""
    write(trap, tmp_path / "evil.pth")
    # An error afterwards comes too late.
    with suppress(RuntimeError):
        torch.load(tmp_path / "evil.pth", weights_only=False)
    assert trap.place.exists()


@pytest.mark.parametrize("write", HOSTILE)
@pytest.mark.parametrize("name", ["evil.pth", "evil.safetensors"])
def test_a_pickle_is_rejected_in_one_line_and_does_not_run(write, name, trap, tmp_path):
    write(trap, tmp_path / name)
    with pytest.raises(WeightsError, match="nothing in it was run") as error:
        load_state(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)
    assert not trap.place.exists()


def test_a_pickle_in_place_of_sam_is_rejected_and_does_not_run(trap, tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    as_state_dict(trap, path)
    with pytest.raises(WeightsError, match="is rejected: expected tensors only"):
        models.build_sam("vit_b", path)
    assert not trap.place.exists()


@pytest.mark.parametrize("write", [*HOSTILE, as_torchscript])
def test_a_pickle_in_place_of_lama_is_rejected_and_does_not_run(write, trap, tmp_path):
    write(trap, tmp_path / "big-lama.pt")
    with pytest.raises(WeightsError, match="expected a TorchScript module"):
        load_torchscript(tmp_path / "big-lama.pt", CPU)
    assert not trap.place.exists()


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04", b"\x80\x02."])
def test_damaged_files_are_rejected(content, tmp_path):
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match="rejected"):
            load_state(tmp_path / name)
    with pytest.raises(WeightsError, match="rejected"):
        load_torchscript(tmp_path / "a.pth", CPU)
    with pytest.raises(WeightsError, match="no such file"):
        load_state(tmp_path / "b.pth")


def test_tensors_round_trip(tmp_path):
    model = nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "a.pth")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        again = load_into(lambda: nn.Linear(3, 2), tmp_path / name)
        assert torch.equal(again.weight, model.weight)
        with pytest.raises(WeightsError, match="another network"):
            load_into(lambda: nn.Linear(3, 4), tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.ones(2), {1: torch.ones(2)}])
def test_other_content_than_a_state_dict_is_rejected(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="tensors by name"):
        load_state(tmp_path / "a.pth")


def calls(tree: ast.AST):
    """Every call in a module with its dotted name, such as `("torch.load", node)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_our_code_never_unpickles(root: Path):
    """No import of an unpickler; `torch.load` with `weights_only=True`; NumPy without objects."""
    guilty = []
    for path in [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", "") or "", *(alias.name for alias in node.names)}
                if names & UNPICKLERS:
                    guilty.append(f"{path}:{node.lineno} imports an unpickler")
        for name, call in calls(tree):
            stated = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name == "torch.load" and stated.get("weights_only") != "True":
                guilty.append(f"{path}:{call.lineno} torch.load without weights_only=True")
            if stated.get("allow_pickle", "False") != "False":
                guilty.append(f"{path}:{call.lineno} allow_pickle")
            if stated.get("use_safetensors", "True") != "True":
                guilty.append(f"{path}:{call.lineno} use_safetensors")
            if name.endswith("PackageImporter"):
                guilty.append(f"{path}:{call.lineno} torch.package")
    assert guilty == []
