"""A new edit kind, source layout or export format is one file and its line in a registry.

Each test copies the program, adds a throw-away one there, and finds it everywhere that users and
other stages meet it. What has to be edited is what the test edits, and nothing else.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_photos import FAST, draw_parts

ROOMS = ("pipeline", "detectors", "flows", "scenes")


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """The program in a folder of its own; the weights are only linked."""
    for room in ROOMS:
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / room, tmp_path / room, ignore=skipped)
    (tmp_path / "weights").symlink_to(root / "weights")
    return tmp_path


def insert(path: Path, before: str, line: str) -> None:
    """Put a line before the first one that holds `before`."""
    text = path.read_text()
    at = text.rindex("\n", 0, text.index(before)) + 1
    path.write_text(text[:at] + line + "\n" + text[at:])


def run(copy: Path, *words: Any) -> str:
    """Standard output of the copied program."""
    program = [sys.executable, "-m", "flows.cli", *map(str, words)]
    return output(copy, program)


def evaluated(copy: Path, program: str) -> Any:
    """The JSON that a few lines print when they run on the copy."""
    return json.loads(output(copy, [sys.executable, "-c", program]))


def output(copy: Path, program: list[str]) -> str:
    done = subprocess.run(
        program, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy), "COLUMNS": "200"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


DIMMED = '''"""`dimmed`: an object is far too dark."""

import numpy as np

from pipeline.edits.base import EditKind


def plan(context, rng, settings):
    target = int(rng.integers(len(context)))
    return (target,), {"factor": 0.3}, [context.crops[target].box_4]


def dim(canvas, edit, context):
    object_HW = context.union(edit.targets)
    dark_HW3 = (context.image_HW3 * edit.parameters["factor"]).astype(np.uint8)
    canvas.fill(canvas.crop(object_HW), dark_HW3)
    return object_HW


def placed(edit, masks, proposals):
    return [masks[0]]


DIMMED = EditKind(plan, dim, placed)
'''

MANIFEST = """
categories:
  parts: {source: folder, path: ./photos/parts}
edits: {kinds: [dimmed], per_image: 2}
gate: {max_seam_ratio: 100, max_outline_ratio: 100}
store: ./store
"""

SEEN_BY_OTHERS = """
import json
from types import SimpleNamespace
import numpy as np
from flows import reference
from flows.demo import text
from pipeline.config.docs import schema_text
from pipeline.edits.presets import PRESETS
from pipeline.records import Edit
from pipeline.reports.audit.shortcut import mask_content
from pipeline.rulebook import judge
mask_HW = np.ones((8, 8), bool)
edit = Edit("dimmed", (0,), {"factor": 0.3}, 1)
print(json.dumps({
    "schema": '"dimmed"' in schema_text(),
    "docs": "`dimmed`" in reference.kinds_table() and "`dimmed`" in reference.kinds_overview(),
    "preset": "dimmed" in PRESETS["full"],
    "rules": bool(judge._placed(edit, [mask_HW], None, None, 0)[0].all()),
    "audit": mask_content("dimmed") == "object",
    "demo": "far too dark" in text._shown("dimmed"),
}))
"""


def test_an_edit_kind_is_a_file_a_row_and_a_line(copy: Path) -> None:
    (copy / "pipeline/edits/kinds/dimmed.py").write_text(DIMMED)
    registry = copy / "pipeline/edits/registry.py"
    insert(registry, "from pipeline.edits.kinds import", "from pipeline.edits.kinds import dimmed")
    insert(registry, '"control_noop":', '    "dimmed": dimmed.DIMMED,')
    row = '    Kind(name="dimmed", summary="an object is far too dark"),'
    kinds = copy / "pipeline/kinds.py"
    text = kinds.read_text()
    at = text.index('    Kind(\n        name="combined"')
    kinds.write_text(text[:at] + row + "\n" + text[at:])

    seen = evaluated(copy, SEEN_BY_OTHERS)
    assert seen == dict.fromkeys(seen, True)

    draw_parts(copy / "photos" / "parts", 3)
    (copy / "data_manifest.yaml").write_text(MANIFEST)
    report = json.loads(run(copy, "generate", *FAST, "--workers", 1, "--json"))
    assert report["by_kind"]["dimmed"] > 0, report["rejected"]
    version = Path(report["version_dir"])
    assert "dimmed" in (version / "gallery/index.html").read_text()
    explained = json.loads(run(copy, "gate", "--version", version, "--explain", 0, "--json"))
    assert explained["accepted"]


LAYOUT = '''"""Good images in a folder called OK."""

from pipeline.sources.layouts.base import Layout


def _read(reader):
    reader.expect("OK")
    for path in reader.images(reader.root / "OK"):
        reader.add(path, "train")


OK_ONLY = Layout(
    name="ok_only",
    files="`OK/*`, all normal",
    read=_read,
    matches=lambda root: (root / "OK").is_dir(),
    licence="CC0-1.0",
    credit="the people at the line",
    one_category=True,
)
'''

LAYOUT_SEEN_BY_OTHERS = """
import json
from pathlib import Path
from pipeline.config.docs import page_text, schema_text
from pipeline.sources.layouts.registry import guess_layout
from pipeline.sources.licences import terms_of
print(json.dumps({
    "schema": '"ok_only"' in schema_text(),
    "docs": "| `ok_only` | `OK/*`, all normal | CC0-1.0 |" in page_text(),
    "guess": guess_layout(Path("photos")) == "ok_only",
    "credit": terms_of({"licence": "CC0-1.0", "settings": {"kind": "ok_only"}}).credit != "",
}))
"""


def test_a_source_layout_is_a_file_and_a_line(copy: Path) -> None:
    (copy / "pipeline/sources/layouts/ok_only.py").write_text(LAYOUT)
    registry = copy / "pipeline/sources/layouts/registry.py"
    insert(
        registry,
        "from pipeline.sources.layouts.mvtec",
        "from pipeline.sources.layouts.ok_only import OK_ONLY",
    )
    insert(registry, "IMAGE_FOLDER,\n", "        OK_ONLY,")

    draw_parts(copy / "photos" / "OK", 3)
    seen = evaluated(copy, LAYOUT_SEEN_BY_OTHERS)
    assert seen == dict.fromkeys(seen, True)
    # Help says the names itself (tests/flows/test_quick_start.py); everything else follows.
    source = f"ok_only:{copy / 'photos'}"
    planned = json.loads(run(copy, "generate", "--source", source, "--dry-run", "--json"))
    assert planned["category"] == "photos"


FORMAT = '''"""The names of all samples, one per line."""

from pipeline.export.base import Content, ExportFormat


def write_names(version, options, out):
    out.text("names.txt", "".join(f"{record['id']}\\n" for *_, record in version.samples()))
    return Content("one name per line", "with any editor")


NAMES = ExportFormat(
    name="names",
    title="a list of names",
    files="`names.txt`",
    readers="any editor",
    write=write_names,
)
'''


def test_an_export_format_is_a_file_and_a_line(copy: Path) -> None:
    (copy / "pipeline/export/names.py").write_text(FORMAT)
    registry = copy / "pipeline/export/registry.py"
    insert(
        registry,
        "from pipeline.export.mvtec",
        "from pipeline.export.names import NAMES",
    )
    insert(registry, "        FIFTYONE,\n", "        NAMES,")

    table = evaluated(
        copy,
        "import json; from flows import reference; print(json.dumps(reference.formats_table()))",
    )
    assert "| `names` | `names.txt` | any editor |" in table

    photos = draw_parts(copy / "photos" / "parts", 2)
    store = copy / "store"
    words = ("--source", f"folder:{photos}", "--store", store, *FAST, "--workers", 1)
    report = json.loads(run(copy, "generate", *words, "--json"))
    out = copy / "names"
    done = json.loads(
        run(copy, "export", report["version_dir"], "--to", "names", "--out", out, "--json")
    )
    assert done["to"] == "names"
    assert len((out / "names.txt").read_text().splitlines()) == report["accepted"]
