"""Security rules of the source code: no unpickling, no running of text, no open ports outside."""

import ast
import io
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import AnomalysmithError
from pipeline.generation.cache import StageCache
from pipeline.models.inpaint.remote import server_url
from pipeline.models.settings import InpaintBackend
from pipeline.models.weights.safe_load import load_state, load_torchscript
from pretraining import loop

ROOMS = ("pipeline", "flows", "detectors", "scenes", "pretraining", "benchmarks", "docker")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS_TEXT = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput"}
UNPACKS_ALL = {"extractall", "unpack_archive"}
DIFFUSERS = {"from_pretrained", "from_single_file"}


def sources(root: Path) -> Iterator[tuple[str, ast.Module]]:
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            yield path.relative_to(root).as_posix(), ast.parse(path.read_text("utf-8"))


def calls(root: Path) -> Iterator[tuple[str, str, ast.Call]]:
    """File with line, dotted name, and the call itself."""
    for name, tree in sources(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{name}:{node.lineno}", ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> object:
    """The literal value of a keyword argument; None when it is not given, `...` when computed."""
    for given in call.keywords:
        if given.arg == name:
            return given.value.value if isinstance(given.value, ast.Constant) else ...
    return None


def test_no_module_that_unpickles_is_imported(root):
    for name, tree in sources(root):
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {n.split(".")[0] for n in names} & FORBIDDEN_MODULES, f"{name}:{node.lineno}"


def test_torch_and_numpy_read_without_unpickling(root):
    seen = 0
    for where, called, call in calls(root):
        if called == "torch.load":
            seen += 1
            assert keyword(call, "weights_only") is True, where
        if called in ("np.load", "numpy.load", "np.save", "np.savez"):
            assert keyword(call, "allow_pickle") in (None, False), where
        if called.endswith("torch.hub.load") or "load_state_dict_from_url" in called:
            raise AssertionError(f"{where}: {called} downloads and unpickles")
    assert seen


def test_no_text_is_run_and_no_archive_unpacked_whole(root):
    for where, called, call in calls(root):
        assert called not in RUNS_TEXT, where
        assert called.rpartition(".")[2] not in UNPACKS_ALL, where
        assert keyword(call, "shell") in (None, False), where
        if called == "YAML":
            assert keyword(call, "typ") in ("rt", "safe"), where
        assert not called.endswith(("yaml.load", "yaml.unsafe_load")), where


def test_model_folders_are_read_from_disk_and_as_safetensors(root):
    for where, called, call in calls(root):
        if called.rpartition(".")[2] in DIFFUSERS:
            assert keyword(call, "local_files_only") is True, where
            assert keyword(call, "use_safetensors") in (None, True), where
            assert keyword(call, "trust_remote_code") in (None, False), where


def test_only_known_files_open_connections(root):
    """Weight downloads on request, a remote inpainter set by the user, Prefect's own client."""
    allowed = {
        "pipeline/models/weights/download.py",
        "pipeline/models/inpaint/remote.py",
        "docker/answers.py",
    }
    for name, tree in sources(root):
        text = {
            ast.unparse(node)
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        }
        network = re.compile(r"\b(urllib\.request|requests|httpx|socket|aiohttp|http\.client)\b")
        users = [line for line in text if network.search(line)]
        known = name in allowed or name.startswith(("flows/", "benchmarks/"))
        assert not users or known, (name, users)


class Evil:
    """A pickle that creates a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def plain_pickle(evil: Evil) -> bytes:
    return pickle.dumps({"weight": evil})


def zipped_pickle(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": {"weight": torch.zeros(2)}, "optimizer": evil}, buffer)
    return buffer.getvalue()


def old_pickle(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    torch.save([evil], buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def npz_pickle(evil: Evil) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, facts=np.array([evil], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def torchscript_with_pickle(evil: Evil) -> bytes:
    """An archive that looks like TorchScript, with a malicious `data.pkl`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as pack:
        pack.writestr("m/data.pkl", plain_pickle(evil))
        pack.writestr("m/constants.pkl", plain_pickle(evil))
        pack.writestr("m/version", b"3")
    return buffer.getvalue()


MAKERS = (plain_pickle, zipped_pickle, old_pickle, npz_pickle, torchscript_with_pickle)


def read_as_cache_entry(path: Path) -> None:
    """Put the file into a stage cache and read it from there."""
    cache = StageCache(path.parent)
    place = cache.path("analysis", "ab" * 32)
    place.parent.mkdir(parents=True)
    place.write_bytes(path.read_bytes())
    assert cache.read("analysis", "ab" * 32) is None


def read_as_training_state(path: Path) -> None:
    """Load the file as model and optimiser of an interrupted pretraining."""
    net = torch.nn.Linear(2, 2)
    loop._load(path, net, net, torch.optim.AdamW(net.parameters()))


READERS: dict[str, Callable[[Path], object]] = {
    "m.pth": load_state,
    "m.safetensors": load_state,
    "m.pt": lambda path: load_torchscript(path, torch.device("cpu")),
    "entry.npz": read_as_cache_entry,
    "state.pt": read_as_training_state,
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("name", READERS)
def test_a_malicious_pickle_is_never_executed(tmp_path, name, make):
    mark = tmp_path / "it-ran"
    path = tmp_path / name
    path.write_bytes(make(Evil(mark)))
    with suppress(AnomalysmithError):
        READERS[name](path)
    assert not mark.exists()


def test_the_pickles_above_are_malicious(tmp_path):
    """An ordinary reader executes them, so the tests above are able to fail."""
    mark = tmp_path / "it-ran"
    pickle.loads(plain_pickle(Evil(mark)))
    assert mark.exists()


def test_prefect_listens_on_this_machine_only():
    from prefect.settings import PREFECT_SERVER_API_HOST

    assert PREFECT_SERVER_API_HOST.value() == "127.0.0.1"


def test_no_command_of_the_docs_listens_on_every_interface(root):
    """The exception is the server inside its container: compose.yaml binds its port to loopback."""
    pages = [
        *root.glob("*.md"),
        *(root / "docs").rglob("*.md"),
        root / "Makefile",
        *root.glob("*.yaml"),
    ]
    for page in pages:
        if page.name in ("CHANGELOG.md", "LOG.md"):
            continue
        for line in page.read_text("utf-8").splitlines():
            assert not re.search(r"--host[= ](0\.0\.0\.0|::)", line), f"{page.name}: {line}"


def test_a_remote_inpainter_is_used_only_with_an_address_from_the_user():
    assert InpaintBackend().backend != "remote"
    assert InpaintBackend().url is None
    with pytest.raises(AnomalysmithError, match="url"):
        server_url(InpaintBackend(backend="remote"))
