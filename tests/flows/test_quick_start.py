"""Help and looking at things are quick: they import only what they use.

Modules are compared, not seconds, because seconds depend on the machine.
"""

import json
import subprocess
import sys

from small_results import small_version
from small_sources import mvtec_loco

from flows import reference
from pipeline.export.registry import FORMATS, TRAIN_TEST
from pipeline.sources.layouts.registry import LAYOUTS

# Each takes a good part of a second to import. Not pydantic, which Typer looks for itself.
HEAVY = (
    "torch", "prefect", "scipy", "cv2", "numpy", "PIL", "h5py", "pyarrow", "sklearn", "onnxruntime",
    "fastapi", "uvicorn", "jinja2",
)  # fmt: skip

# Runs several command lines in one process: what one imports, the next has as well, so the first
# command line that imports a heavy module is blamed.
PROGRAM = """
import contextlib, io, json, sys
from flows import cli
heavy, lines = json.loads(sys.argv[1]), json.loads(sys.argv[2])
blamed = {}
for line in [[], *lines]:
    sys.argv = ["anomalysmith", *line]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        if line:
            cli.main()
    for name in heavy:
        if name in sys.modules:
            blamed.setdefault(name, " ".join(line) or "import flows.cli")
print(json.dumps(blamed))
"""


def blamed(heavy, lines):
    """Heavy module -> the command line that imported it first."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(heavy), json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_help_imports_nothing_heavy():
    names = [name.split() for name, _ in reference.commands()]
    lines = [["--help"], ["--version"], *([*name, "--help"] for name in names)]
    assert len(lines) > 20
    assert blamed(HEAVY, lines) == {}


def test_looking_at_weights_needs_no_arrays():
    assert blamed(("torch", "prefect", "scipy", "cv2", "numpy", "PIL"), [["weights", "list"]]) == {}


def test_looking_at_a_version_imports_no_model(tmp_path):
    folder = str(small_version(tmp_path, images=2).dir)
    lines = [["stats", folder], ["show", folder, "0", "--out", str(tmp_path / "sample.png")]]
    heavy = ("torch", "prefect", "scipy", "sklearn", "onnxruntime")
    # Counts and areas need neither the table of attempts nor OpenCV.
    assert blamed((*heavy, "cv2", "pyarrow", "numpy.ma"), lines[:1]) == {}
    assert blamed(heavy, lines) == {}


def test_doctor_imports_no_model_unless_asked(tmp_path):
    line = ["doctor", "--source", f"mvtec_loco:{mvtec_loco(tmp_path / 'product')}"]
    heavy = ("torch", "prefect", "scipy", "cv2", "pyarrow", "h5py", "numpy.ma", "onnxruntime")
    assert blamed(heavy, [line]) == {}


def test_help_names_every_layout_and_format():
    """It says them itself, because asking the registries would import them."""
    helps = {(name, o.opts[0]): o.help for name, command in reference.commands()
             for o in command.params if o.param_type_name == "option"}  # fmt: skip
    layouts = helps["generate", "--source"].partition(": ")[2].partition(", a colon")[0]
    assert layouts.replace(" or ", ", ").split(", ") == list(LAYOUTS)
    formats = helps["export", "--to"].removesuffix(".")
    assert formats.replace(" or ", ", ").split(", ") == list(FORMATS)
    for option in ("--samples", "--test"):
        assert helps["export", option].startswith(f"{' and '.join(TRAIN_TEST)}: ")
