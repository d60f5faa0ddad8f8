"""The shape of the repository: downhill imports, packages by notion, small files, no index host."""

import ast
import os
import re
import socket
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from network_guard import NetworkBlocked

ROOMS = ("pipeline", "flows", "detectors", "scenes", "pretraining", "benchmarks")
LONGEST_FILE = 400
MOST_FILES = 25
MAX_DEPTH = 2  # packages below a room
SCENES_MAY_IMPORT = {"scenes", "numpy", "PIL", "cv2"}
# Where packages come from is the business of the machine that installs them.
INDEX_HOST = re.compile(r"--(extra-)?index-url|--find-links|https?://\S+/simple\b|pythonhosted")


def python_files(root: Path) -> list[Path]:
    return [path for room in ROOMS for path in sorted((root / room).rglob("*.py"))]


def tracked_files(root: Path) -> list[Path]:
    """What git tracks; without git (an image, an archive), every file outside hidden folders."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        return [root / name for name in listing.stdout.split("\0") if name]
    return [path for path in root.rglob("*") if "/." not in str(path.relative_to(root))]


def imported_roots(path: Path) -> set[str]:
    """Top-level names of everything that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: imports are absolute here"
            names.add((node.module or "").split(".")[0])
    return names


def test_import_contracts_hold(root: Path) -> None:
    program = Path(sys.executable).parent / "lint-imports"
    run = subprocess.run(
        [program, "--no-cache"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_scenes_import_nothing_but_arrays_and_pictures(root: Path) -> None:
    allowed = SCENES_MAY_IMPORT | set(sys.stdlib_module_names)
    for path in sorted((root / "scenes").rglob("*.py")):
        assert imported_roots(path) <= allowed, path


def test_prefect_is_imported_in_flows_only(root: Path) -> None:
    users = {path.relative_to(root).parts[0] for path in python_files(root) if knows_prefect(path)}
    assert users <= {"flows", "benchmarks"}


def knows_prefect(path: Path) -> bool:
    return "prefect" in imported_roots(path)


def folders(root: Path) -> list[Path]:
    """Every folder of the rooms that holds Python files."""
    return sorted({path.parent for path in python_files(root)})


def imported_files(path: Path, root: Path) -> set[Path]:
    """The files of the rooms that a file imports, also inside functions and under TYPE_CHECKING."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from package import module` and `from module import name` look the same: try both.
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    files = {root / f"{name.replace('.', '/')}.py" for name in names}
    return {file for file in files if file.is_file()}


def test_no_file_imports_itself_through_others(root: Path) -> None:
    """Neither directly nor around a longer cycle; the packages' `__init__.py` are empty anyway."""
    graph = {path: imported_files(path, root) for path in python_files(root)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = [str(path.relative_to(root)) for path in error.args[1]]
        pytest.fail("import cycle: " + " <- ".join(cycle))


def test_packages_are_two_levels_deep_at_most(root: Path) -> None:
    deep = [path for path in folders(root) if len(path.relative_to(root).parts) > 1 + MAX_DEPTH]
    assert deep == []


def test_every_folder_is_a_package_with_an_empty_init(root: Path) -> None:
    inits = [folder / "__init__.py" for folder in folders(root)]
    assert [path for path in inits if not path.is_file() or path.read_bytes()] == []


def test_no_folder_holds_more_files_than_one_reads_at_a_glance(root: Path) -> None:
    counts = {
        str(folder.relative_to(root)): len([p for p in folder.glob("*.py") if p.stem != "__init__"])
        for folder in folders(root)
    }
    assert {name: n for name, n in counts.items() if n > MOST_FILES} == {}


def test_no_file_name_repeats_the_name_of_its_package(root: Path) -> None:
    """`gate/gate_rules.py` says gate twice; a prefix that several files share is a package."""
    repeated = [
        path
        for path in python_files(root)
        if len(words := path.stem.split("_")) > 1
        and path.parent.name in ("_".join(words[:-1]), "_".join(words[1:]), words[0], words[-1])
    ]
    assert repeated == []


def test_no_file_is_longer_than_the_limit(root: Path) -> None:
    files = [*python_files(root), *sorted((root / "tests").rglob("*.py"))]
    lengths = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for path in files
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_every_module_says_what_it_is(root: Path) -> None:
    modules = [path for path in python_files(root) if path.name != "__init__.py"]
    silent = [p for p in modules if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert silent == []


def test_no_package_index_is_named(root: Path) -> None:
    guilty = []
    for path in tracked_files(root):
        if not path.is_file() or path == Path(__file__) or path.stat().st_size > 1_000_000:
            continue
        if INDEX_HOST.search(path.read_bytes().decode("utf-8", errors="ignore")):
            guilty.append(path)
    assert guilty == []


def test_the_lock_is_exact_and_holds_every_direct_dependency(root: Path) -> None:
    lock = [
        line
        for line in (root / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = dict(line.split(" ;")[0].split("==") for line in lock)
    for line in (root / "requirements.in").read_text().splitlines():
        wish = line.removeprefix("#no-deps ")
        if not wish or wish.startswith("#"):
            continue
        name, version = wish.split("==")
        key = re.sub(r"\[.*\]", "", name).replace(".", "-").replace("_", "-").lower()
        assert pins[key] == version, wish


# Packages that no file imports: what they are for stands in docs/decisions/0001-dependencies.md.
IMPORTED_BY_OTHERS = {"accelerate", "distributed", "fastapi", "onnxscript", "ray", "whenever"}
TOOLS = {"setuptools", "pytest-xdist", "ruff", "mypy", "import-linter", "tensorboard"}
IMPORT_NAMES = {
    "pillow": "PIL",
    "opencv-python-headless": "cv2",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
    "pyyaml": "yaml",
    "pypatchmatch": "patchmatch",
}


def test_every_direct_dependency_is_imported_by_somebody(root: Path) -> None:
    files = [*python_files(root), *sorted((root / "tests").rglob("*.py"))]
    imported = set().union(*(imported_roots(path) for path in files))
    unused = []
    for line in (root / "requirements.in").read_text().splitlines():
        wish = line.removeprefix("#no-deps ")
        if not wish or wish.startswith("#"):
            continue
        name = re.sub(r"\[.*\]", "", wish.split("==")[0])
        module = IMPORT_NAMES.get(name, name.replace("-", "_").split(".")[0])
        if module not in imported and name not in IMPORTED_BY_OTHERS | TOOLS:
            unused.append(name)
    assert unused == []


def test_one_version_everywhere(root: Path) -> None:
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text()
    assert version in (root / "CHANGELOG.md").read_text()


def test_tests_cannot_reach_the_network() -> None:
    with pytest.raises(NetworkBlocked, match="example"):
        socket.create_connection(("example.org", 443), timeout=1)
    with pytest.raises(NetworkBlocked, match="192"):
        socket.create_connection(("192.0.2.1", 443), timeout=1)


def test_tests_can_reach_this_machine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
