"""Imports that are put off: a library gets a function that imports its module when it is called."""

import importlib
import sys

from pipeline.utils.postponed import postponed


def test_a_module_is_imported_when_its_function_is_called(tmp_path, monkeypatch):
    heavy = "def twice(x):\n    return 2 * x\n\n\ndef half(x):\n    return x / 2\n"
    (tmp_path / "heavy_and_rare.py").write_text(heavy)
    (tmp_path / "wants_it.py").write_text("from heavy_and_rare import half, twice\n")
    monkeypatch.syspath_prepend(tmp_path)
    with postponed({"heavy_and_rare": ("twice", "half")}):
        library = importlib.import_module("wants_it")
    assert "heavy_and_rare" not in sys.modules
    assert (library.twice(4), library.half(4)) == (8, 2)
    assert "heavy_and_rare" in sys.modules


def test_a_module_that_is_imported_already_stays():
    decoder = sys.modules["json.decoder"]
    with postponed({"json.decoder": ("JSONDecoder",)}):
        assert importlib.import_module("json.decoder") is decoder
    assert sys.modules["json.decoder"] is decoder
