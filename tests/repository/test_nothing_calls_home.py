"""Nothing calls home: programs of ours are watched by the kernel (`tests/helpers/sealed.py`).

Whatever they start, native code included, they reach no other machine, ask no DNS, and write only
into the store, the cache, the temporary folder and the folders they are given. Only `weights pull`
is there to download.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image, ImageDraw
from sealed import Seen, run_audited, run_sealed, why_not
from small_photos import FAST, draw_parts

from flows.cli import app

sys.path.insert(0, str(Path(__file__).parents[1] / "docker"))
from dockerfile import pairs, parse

from pipeline.review.decision import Decision, now
from pipeline.review.log import ReviewLog

# Libraries that send, fetch or store something of their own unless the environment forbids it.
OUTGOING = {
    "diffusers", "distributed", "lama_cleaner", "onnxruntime", "prefect", "prefect_dask",
    "prefect_ray", "ray", "rembg", "transformers",
}  # fmt: skip
ENVIRONMENTS = {"pipeline.environment", "flows.environment"}

# The programs of the slow test: what is written goes to `store`, `out` and `prefect`.
PHOTOS = "--source mvtec_ad:photos --store store --workers 2 " + " ".join(FAST)
TINY = "--profile tiny --size 64 --device cpu --precision fp32"
COMMANDS = f"""
doctor --manifest manifest.yaml
plan --manifest manifest.yaml
generate {PHOTOS}
generate {PHOTOS} --seed 1
verify $V
stats $V
show $V 0 --out out/show.png
diff $V $(echo store/photos/0002-*) --html out/diff.html
gallery $V
curate $V --reviews out/reviews.jsonl
serve store --port 0 > out/serve & while kill -0 $! && ! grep -qs Serving out/serve; \
do sleep 1; done; sleep 2; kill -INT $!; wait $!
audit $V
export $V --to anomalib --out out/anomalib
gate --version $V --explain 0
gc --store store
deployments --manifest manifest.yaml --out out/prefect.yaml
detectors
train --detector nearest --version $V --out out/nearest {TINY} --set bank=64
train --detector puad --version $V --out out/puad {TINY} --steps 2 --workers 1
compare $V --out out/compare {TINY} --detector nearest --set nearest.bank=64
distill-teacher --images photos --out out/teacher.safetensors --backbone bundled-teacher --size 64 \
--steps 1 --batch-size 2 --device cpu --tensorboard out/board
evaluate --checkpoint out/nearest --version $V --out out/report
predict --checkpoint out/nearest photos/test --maps out/maps --csv out/scores.csv
export-onnx --checkpoint out/nearest --out out/nearest.onnx
rules draft --source mvtec_ad:photos --out out/rules.yaml
rules check out/rules.yaml $V
rules show out/rules.yaml
weights list
weights verify
weights bundle out/bundle --manifest manifest.yaml
"""
MANIFEST = """
store: store
image_size: 128
models: {inpaint: {backend: telea}}
edits: {per_image: 2}
sources: {parts: {kind: mvtec_ad, path: .}}
categories: {photos: {source: parts}}
"""
LIBRARY = """
import sys
from pathlib import Path

import numpy as np
from pipeline.models.foreground import U2NetForeground

U2NetForeground(Path(sys.argv[1]), False)(np.full((96, 96, 3), 200, np.uint8))
"""
FLOW = """
from flows.generate import generate_anomalies

generate_anomalies(manifest="manifest.yaml", store="flows", runner="processes", workers=2)
"""
# Reaches out, and writes, in C.
NATIVE = """
import ctypes, socket

c = ctypes.CDLL(None)
c.mkdir(b"/var/tmp/native", 0o755)
address = socket.AF_INET.to_bytes(2, "little") + bytes((1, 187, 192, 0, 2, 1)) + bytes(8)
c.connect(c.socket(2, 1, 0), address, 16)
c.getaddrinfo(b"events.example.org", None, None, ctypes.byref(ctypes.c_void_p()))
"""
PYTHON = """
import os, socket

os.makedirs(os.path.expanduser("~/.config/python"))
for call in (socket.create_connection, socket.socket(type=socket.SOCK_DGRAM).connect):
    try:
        call(("192.0.2.1" if call is not socket.create_connection else "example.org", 443))
    except OSError:
        pass
"""


def user_environment(root: Path) -> dict[str, str]:
    """What a user's shell gives to a program: nothing about telemetry."""
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **threads}


def image_environment(root: Path) -> dict[str, str]:
    """The ENV of the Dockerfile's last stages, with the programs of this environment."""
    steps = parse((root / "Dockerfile").read_text()).stage("program").steps
    given = {k: v for s in steps if s.word == "ENV" for k, v in pairs(s.rest).items()}
    return given | user_environment(root)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def program(line: str) -> list[str]:
    """A command; `$V` is the first version in the store."""
    return ["sh", "-c", f"V=$(echo store/photos/0001-*); {sys.executable} -m flows.cli {line}"]


def draw_source(folder: Path) -> Path:
    """MVTec AD's layout: eight good images, a test split of two good and two defective ones."""
    draw_parts(folder / "train" / "good", 8)
    draw_parts(folder / "test" / "good", 2)
    draw_parts(folder / "test" / "spot", 2)
    masks = folder / "ground_truth" / "spot"
    masks.mkdir(parents=True)
    for path in sorted((folder / "test" / "spot").iterdir()):
        image, mask = Image.open(path), Image.new("L", (128, 128))
        for canvas, colour in ((image, (220, 40, 40)), (mask, 255)):
            ImageDraw.Draw(canvas).rectangle((50, 50, 74, 70), fill=colour)
        image.save(path)
        mask.save(masks / f"{path.stem}_mask.png")
    return folder


def assert_quiet(seen: Seen, *given: Path) -> None:
    failed = [f"{shlex.join(p.words)}\n{p.output[-1000:]}" for p in seen.programs if p.code]
    assert (seen.reached, seen.beyond(*given), failed) == ((), [], [])


# --- the guard ------------------------------------------------------------------------------------


@pytest.fixture
def kernel() -> None:
    if reason := why_not():
        pytest.skip(reason)


def test_the_kernel_sees_what_native_code_does(kernel, root, tmp_path):
    seen = run_sealed([python(NATIVE)], tmp_path, user_environment(root))
    assert seen.reached == ("192.0.2.1 port 443", "asks DNS for events.example.org")
    assert seen.written == ("/var/tmp/native",)
    assert not Path("/var/tmp/native").exists()


def test_the_audit_hook_sees_what_python_code_does(root, tmp_path):
    """And keeps it from going out, as nothing else does here."""
    seen = run_audited([python(PYTHON)], tmp_path, user_environment(root))
    assert seen.reached == ("192.0.2.1 port 443", "asks for example.org")
    assert seen.beyond(tmp_path / "tmp") == [f"{tmp_path}/.config", f"{tmp_path}/.config/python"]


# --- the promise ----------------------------------------------------------------------------------


def test_a_library_user_is_as_quiet_as_our_programs(root, tmp_path):
    """onnxruntime starts its telemetry when it is imported, before any session."""
    words = [*python(LIBRARY), root / "weights" / "u2netp.onnx"]
    assert_quiet(run_sealed([words], tmp_path, user_environment(root)), tmp_path / "tmp")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [user_environment, image_environment])
def test_no_command_reaches_out_or_writes_elsewhere(environment, root, tmp_path):
    work = tmp_path / "work"
    draw_source(work / "photos")
    (work / "out").mkdir()
    (work / "manifest.yaml").write_text(MANIFEST)
    # About every sample that the first image may have; those that it has not are left aside.
    rejected = [
        Decision(f"train/good/000.png@{number}.{attempt}", "reject", "", "", "Anna", now())
        for number in range(2)
        for attempt in range(8)
    ]
    ReviewLog(work / "out" / "reviews.jsonl").append(rejected)
    given = environment(root) | {"PREFECT_HOME": str(work / "prefect")}
    lines = COMMANDS.strip().splitlines()
    seen = run_sealed([*map(program, lines), python(FLOW)], tmp_path, given)
    written = [work / name for name in ("store", "out", "flows", "prefect")]
    assert_quiet(seen, *written, tmp_path / "tmp", tmp_path / ".cache" / "anomalysmith")


def test_every_command_is_watched():
    """But for `weights pull`, which downloads what it is told to."""
    top = typer.main.get_command(app)
    known = set()
    for name, command in top.commands.items():
        inner = getattr(command, "commands", None)
        known |= {f"{name} {word}" for word in inner} if inner else {name}
    watched = {line for line in known if f"\n{line} " in COMMANDS or f"\n{line}\n" in COMMANDS}
    assert known - watched == {"weights pull"}


# --- the list of switches -------------------------------------------------------------------------


def test_who_imports_a_library_with_telemetry_switches_it_off_first(root):
    """A library user may import any of our modules first, Prefect any of our flows."""
    rooms = ("pipeline", "detectors", "flows", "pretraining", "benchmarks")
    paths = [path for room in rooms for path in sorted((root / room).rglob("*.py"))]
    assert [path for path in paths if is_loud(path.read_text(encoding="utf-8"))] == []


def is_loud(text: str) -> bool:
    """Whether it imports such a library, and no environment before."""
    # To parse a file takes longer than to look for a word.
    if not re.search(rf"\b({'|'.join(OUTGOING)})\b", text):
        return False
    imports = imports_of(text)
    libraries = [at for at, name in enumerate(imports) if name.split(".")[0] in OUTGOING]
    return bool(libraries) and not ENVIRONMENTS & set(imports[: min(libraries)])


def imports_of(text: str) -> list[str]:
    """Names of the imported modules, in the order of the lines."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
            found.append((node.lineno, str(node.module)))
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def test_what_the_user_has_set_is_left_alone(root):
    code = "import os, flows.environment; print(os.environ['HF_HUB_OFFLINE'])"
    done = subprocess.run(
        python(code), env=user_environment(root) | {"HF_HUB_OFFLINE": "0"}, cwd=root,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "0\n"
