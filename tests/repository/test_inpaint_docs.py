"""docs/inpainting.md: its example settings are valid, and every backend is documented."""

import re
from pathlib import Path
from typing import get_args

import pytest

from pipeline.config.manifest import read_manifest, resolve
from pipeline.models.settings import FillBackend, InpaintBackend

PAGE = (Path(__file__).parents[2] / "docs/inpainting.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
CATEGORY = "categories:\n  nuts: {source: folder, path: photos}\n"


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_every_example_is_a_manifest(tmp_path, number):
    manifest = tmp_path / "data_manifest.yaml"
    manifest.write_text(BLOCKS[number] + CATEGORY)
    settings = resolve(read_manifest(manifest), "nuts")
    words = set(re.findall(r"[a-z_]+", BLOCKS[number]))
    assert {"inpaint", "fill"} & words
    if "prompts" in words:
        assert settings.edits.prompts == ("a washer", "a hex nut", "a rusty screw")


@pytest.mark.parametrize("backend", [InpaintBackend, FillBackend])
def test_every_backend_has_its_row(backend):
    rows = {name for line in PAGE.splitlines() if line.startswith("| `")
            for name in re.findall(r"`(\w+)`", line.split("|")[1])}  # fmt: skip
    assert set(get_args(backend.model_fields["backend"].annotation)) <= rows


def test_the_number_of_form_fields_is_right():
    from pipeline.models.inpaint.remote import LAMA_CLEANER_FORM

    assert f"all {len(LAMA_CLEANER_FORM)} fields" in " ".join(PAGE.split())
