"""The manifest: the smallest one works, user errors name line and key, digests ignore paths."""

import json
import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.docs import PAGE_FILE, PROJECT, SCHEMA_FILE, page_text, schema_text
from pipeline.config.manifest import manifest_for_source, override, read_manifest, resolve
from pipeline.config.schema import CategorySettings
from pipeline.edits.settings import EditSettings
from pipeline.errors import ManifestError
from pipeline.gate.settings import GateSettings
from pipeline.models.settings import ProposalSettings
from pipeline.settings import as_size, pixels_at

SMALLEST = "categories: {mine: {source: folder, path: photos}}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "data_manifest.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def resolved(folder: Path, text: str, category: str = "mine") -> CategorySettings:
    return resolve(read_manifest(written(folder, text)), category)


def test_a_category_needs_only_a_kind_and_a_path(tmp_path):
    mine = resolved(tmp_path, SMALLEST)
    assert mine.kind == "folder"
    assert mine.root == tmp_path / "photos"
    assert mine.store == tmp_path / "out" / "store"
    assert mine.image_size == (256, 256)
    assert mine.licence == "unknown"
    assert (mine.proposals, mine.edits, mine.gate) == (
        ProposalSettings(),
        EditSettings(),
        GateSettings(),
    )


def test_the_committed_manifest_names_the_four_rendered_products():
    manifest = read_manifest(PROJECT / "data_manifest.yaml")
    assert list(manifest.categories) == ["tray", "bottle", "pins", "bag"]
    for name in manifest.categories:
        category = resolve(manifest, name)
        assert category.kind == "mvtec_loco"
        assert category.product == name
        assert category.scenes is not None
        assert category.root == PROJECT / "out" / "scenes" / name
        assert category.licence == "Apache-2.0 (rendered)"


def test_its_commented_entries_work_when_they_are_uncommented(tmp_path):
    text = (PROJECT / "data_manifest.yaml").read_text("utf-8")
    keys = r"mvtec_ad:|mvtec_loco:|oct:|mine:|hazelnut:|ad_bottle:|screw_bag:|retina:|my_product:"
    keys += r"|quick:|kind:|path:|licence:|source:|image_size:|edits:"
    uncommented = re.sub(rf"^  # ( *(?:{keys}))", r"  \1", text, flags=re.M)
    manifest = read_manifest(written(tmp_path, uncommented))
    assert set(manifest.sources) == {"rendered", "mvtec_ad", "mvtec_loco", "oct", "mine"}
    assert len(manifest.categories) == 10
    assert resolve(manifest, "hazelnut").root == Path("/data/mvtec_ad/hazelnut")
    assert resolve(manifest, "ad_bottle").root == Path("/data/mvtec_ad/bottle")
    assert resolve(manifest, "screw_bag").image_size == (352, 512)
    assert resolve(manifest, "screw_bag").edits.kinds == ("missing", "extra")
    assert resolve(manifest, "retina").licence == "CC BY 4.0"
    assert resolve(manifest, "my_product").licence == "proprietary"
    assert resolve(manifest, "quick").root == Path("/data/ten_photos")


def test_a_category_overrides_only_the_keys_that_it_states(tmp_path):
    mine = resolved(
        tmp_path,
        """
seed: 3
edits: {per_image: 9, feather: 1}
models: {device: cpu, inpaint: {backend: telea, weights: w/lama.pt}}
categories:
  mine:
    source: folder
    path: photos
    edits: {feather: 5}
    models: {inpaint: {backend: ns}}
    image_size: [64, 128]
""",
    )
    assert (mine.edits.per_image, mine.edits.feather) == (9, 5)
    assert (mine.models.device, mine.models.inpaint.backend) == ("cpu", "ns")
    assert mine.models.inpaint.weights == str(tmp_path / "w/lama.pt")
    assert mine.image_size == (64, 128)
    assert mine.seed == mine.split_seed == 3


def test_variables_and_home_are_not_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/elsewhere")
    mine = resolved(tmp_path, "categories: {mine: {source: folder, path: $HOME/photos}}")
    assert mine.root == tmp_path / "$HOME" / "photos"
    # A store would be created, in a folder of that name.
    for store in ("~/store", "$HOME/store", "${HOME}/store", "'~'"):
        with pytest.raises(ManifestError, match=r"1: store: .*not expanded; write the"):
            resolved(tmp_path, f"store: {store}\n{SMALLEST}")
    assert resolved(tmp_path, f"store: ./~/cash$\n{SMALLEST}").store == tmp_path / "~" / "cash$"


USER_ERRORS = [
    ("", 1, "expected keys such as `categories:`, got nothing"),
    ("- 1", 1, "got a list"),
    ("seed: 1\nversion: 1\n", 1, "categories: is missing; add it"),
    ("version: 2\n" + SMALLEST, 1, "version: expected 1, got 2"),
    ("categories: {}", 1, "categories: needs at least one entry"),
    ("\n" + SMALLEST + "sed: 1\n", 3, "sed: unknown key; did you mean seed?"),
    (SMALLEST + "edits:\n  per_imge: 3\n", 3, "edits.per_imge: unknown key; did you mean per_imag"),
    (SMALLEST + "models:\n  device: cpu\n  foreground:\n    weight: x", 5,
     "models.foreground.weight: unknown key; did you mean weights?"),
    (SMALLEST + "colour: red", 2, "colour: unknown key; known: version, seed"),
    (SMALLEST + "seed: 1\nstore: s\nseed: 2\n", 4, 'duplicate key "seed"; keep one of them'),
    (SMALLEST + "edits:\n\tfeather: 1\n", 3, "a tab; YAML is indented with spaces"),
    ("categories: [1", 1, "expected"),
    (SMALLEST + "seed: *x", 2, "undefined alias"),
    (SMALLEST + "---\nseed: 1\n", 2, "a second document (---)"),
    (SMALLEST + "store: !!python/name:os.system x", 2, "store: expected plain text or a number"),
    (SMALLEST + "seed: 2024-01-31", 2, "seed: expected plain text or a number, got a date"),
    (SMALLEST + "7: x", 2, "7: put quotes around this key"),
    (SMALLEST + "seed: '1'", 2, "seed: expected a whole number, got '1'"),
    (SMALLEST + "seed: 1.0", 2, "seed: expected a whole number, got 1.0"),
    (SMALLEST + "seed: true", 2, "seed: expected a whole number, got True"),
    (SMALLEST + "seed: -1", 2, "seed: expected greater than or equal to 0, got -1"),
    (SMALLEST + "store: 3", 2, "store: expected text (put quotes around it), got 3"),
    (SMALLEST + "edits: 3", 2, "edits: "),
    (SMALLEST + "edits: {match_noise: 'yes'}", 2, "edits.match_noise: expected true or false"),
    (SMALLEST + "gate: {min_delta_e: .nan}", 2, "gate.min_delta_e: expected a finite number"),
    (SMALLEST + "gate:\n  max_border: 1.5", 3, "gate.max_border: expected less than or equal to 1"),
    (SMALLEST + "edits: {kinds: [mising]}", 2, "edits.kinds.0: expected 'missing', 'extra'"),
    (SMALLEST + "edits: {kinds: []}", 2, "edits.kinds: needs at least one entry"),
    (SMALLEST + "edits: {preset: papr}", 2, "got 'papr'; did you mean paper?"),
    (SMALLEST + "image_size: 100", 2, "image_size: each side must be a multiple of 8 from 64"),
    (SMALLEST + "image_size: [64]", 2, "image_size: expected one whole number (square) or"),
    (SMALLEST + "proposals: {min_area: 0.5}", 1, "min_area 0.5 must be below max_area 0.2"),
    ("categories: {'a b': {source: folder, path: x}}", 1, "use letters, digits"),
    ("categories: {../up: {source: folder, path: x}}", 1, "use letters, digits"),
    ("categories:\n  mine:\n    source: foldr\n    path: x", 3,
     "categories.mine.source: unknown source 'foldr'; did you mean folder?; known: mvtec_ad"),
    ("categories:\n  mine:\n    source: folder", 2, "source folder is a kind, so `path` is needed"),
    ("categories:\n  mine:\n    path: x", 2, "categories.mine.source: is missing"),
    ("sources: {s: {kind: mvtec_ad, path: d}}\ncategories:\n  mine: {source: s, path: ../x}", 3,
     "categories.mine.path: must stay below the source's folder d, got '../x'"),
    ("sources: {s: {kind: mvtec_ad, path: d}}\ncategories:\n  mine: {source: s, path: /x}", 3,
     "must stay below the source's folder d, got '/x'"),
    ("sources: {s: {kind: folder, path: d, scenes: {train: 3}}}\n" + SMALLEST, 1,
     "`scenes` needs kind scenes, got kind folder"),
    ("sources: {s: {kind: scenes, path: d}}\ncategories: {cup: {source: s}}", 2,
     "no product is called 'cup'; set product to one of tray, bottle, pins, bag"),
    ("categories:\n  mine: {source: folder, path: x, product: tray}", 2,
     "categories.mine.product: needs a source of kind scenes"),
    ("licence: {allow_noncommercial: false}\n"
     "categories:\n  ad: {source: mvtec_ad, path: x}", 3,
     "its licence is CC BY-NC-SA 4.0, but licence.allow_noncommercial is false"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "message"), USER_ERRORS)
def test_every_user_error_names_file_line_and_key(tmp_path, text, line, message):
    path = written(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    first = str(caught.value).split("\n")[0]
    assert first.startswith(f"{path}:{line}: "), first
    assert message in first


def test_all_user_errors_are_listed_at_once_in_the_order_of_the_file(tmp_path):
    path = written(tmp_path, "seed: x\n" + SMALLEST + "stor: y\nedits: {feather: no}\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    lines = [int(line.split(":")[1]) for line in str(caught.value).split("\n")]
    assert lines == [1, 3, 4]


def test_files_that_are_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match="there is no such file"):
        read_manifest(tmp_path / "nothing.yaml")
    with pytest.raises(ManifestError, match="a manifest is a YAML file"):
        read_manifest(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"store: caf\xe9")
    with pytest.raises(ManifestError, match="save it as UTF-8"):
        read_manifest(tmp_path / "latin.yaml")


@given(st.text(max_size=60) | st.text("ab:-[]{}&*!#|>%@'\" \t\n?,", max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_a_manifest_or_a_manifest_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8", errors="ignore")
    with pytest.raises(ManifestError, match=re.escape(str(path))):
        read_manifest(path)


def test_anchors_and_merge_keys_are_plain_yaml(tmp_path):
    text = """
categories:
  one: &one {source: folder, path: a, edits: {per_image: 2}}
  mine: {<<: *one, path: b}
"""
    mine = resolved(tmp_path, text)
    assert mine.root == tmp_path / "b"
    assert mine.edits.per_image == 2


def test_an_unknown_category_names_those_that_exist(tmp_path):
    manifest = read_manifest(written(tmp_path, SMALLEST))
    with pytest.raises(ManifestError, match=r"'mime'; did you mean mine\?; the manifest has mine"):
        resolve(manifest, "mime")


def test_the_digest_content_depends_on_edits_and_not_on_folders(tmp_path):
    contents = []
    for place, device in (("here", "auto"), ("there", "cpu")):
        (tmp_path / place).mkdir()
        text = f"store: {place}\nmodels: {{device: {device}}}\noutput: {{profile: portable}}\n"
        mine = resolved(tmp_path / place, text + SMALLEST)
        contents.append(mine.digest_content())
        assert str(tmp_path) not in json.dumps(mine.digest_content())
    assert contents[0] == contents[1]
    changed = resolved(tmp_path, SMALLEST + "edits: {feather: 4}").digest_content()
    assert changed != contents[0]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("瓶子", "瓶子"), ("螺丝", "螺丝"), ("Ko\u0308ln", "K\u00f6ln"), ("สกรู", "สกรู"),
        ("my bottle (2)", "my_bottle_2_"), (".hidden", "hidden"), ("винты", "винты"),
    ],
)  # fmt: skip
def test_a_category_keeps_the_letters_of_its_folder(tmp_path, folder, name):
    manifest = manifest_for_source("folder", tmp_path / folder)
    assert list(manifest.categories) == [name]
    assert resolve(manifest, unicodedata.normalize("NFD", name)).name == name


def test_a_category_finds_its_folder_in_any_case_and_unicode_form(tmp_path):
    # As unpacked from an archive of a Mac.
    (tmp_path / "data" / "Ko\u0308ln").mkdir(parents=True)
    text = """
sources: {s: {kind: mvtec_ad, path: data}}
categories: {"k\u00f6ln": {source: s}, other: {source: s}}
"""
    manifest = read_manifest(written(tmp_path, text))
    found, missing = (resolve(manifest, name).root for name in manifest.categories)
    assert found == tmp_path / "data" / "Ko\u0308ln"
    assert missing == tmp_path / "data" / "other"


def test_names_without_letters_and_long_names_stay_different(tmp_path):
    folders = ["★", "☆", "瓶" * 80, "瓶" * 81]
    names = [next(iter(manifest_for_source("folder", tmp_path / f).categories)) for f in folders]
    assert len(set(names)) == 4
    assert names[0].startswith("category-")
    assert all(len(name.encode()) <= 200 for name in names)


def test_names_that_would_share_a_folder_are_refused(tmp_path):
    for same in ("Nut", "nut"), ("K\u00f6ln", "Ko\u0308ln"):
        text = "categories:\n" + "".join(
            f"  {name}: {{source: folder, path: x}}\n" for name in same
        )
        with pytest.raises(ManifestError, match=r"yaml:3: .* but for case or Unicode form"):
            read_manifest(written(tmp_path, text))
    text = "categories: {瓶 子: {source: folder, path: x}}"
    with pytest.raises(ManifestError, match="use letters, digits"):
        read_manifest(written(tmp_path, text))


def test_the_folders_of_an_ok_ng_source_and_the_word_for_the_guard(tmp_path):
    text = """
sources:
  line: {kind: ok_ng, path: line, normal_dir: a, abnormal_dir: [b, c]}
  photos: {kind: folder, path: photos, all_normal: true}
categories:
  one: {source: line}
  two: {source: line, abnormal_dir: d}
  three: {source: photos}
  four: {source: photos, all_normal: false}
"""
    manifest = read_manifest(written(tmp_path, text))
    one, two, three, four = (resolve(manifest, name).options for name in manifest.categories)
    assert (one.folders("normal_dir"), one.folders("abnormal_dir")) == (("a",), ("b", "c"))
    assert two.folders("abnormal_dir") == ("d",)
    assert (three.all_normal, four.all_normal) == (True, False)
    text = text.replace("photos, all_normal: false", "photos, mask_dir: m")
    with pytest.raises(
        ManifestError, match=r"yaml:9: .*mask_dir needs a source of kind ok_ng, got"
    ):
        read_manifest(written(tmp_path, text))


def test_a_source_on_the_command_line_needs_no_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = manifest_for_source("mvtec_ad", Path("data") / "my bottle", edits={"per_image": 2})
    (name,) = manifest.categories
    category = resolve(manifest, name)
    assert name == "my_bottle"
    assert category.root == tmp_path / "data" / "my bottle"
    assert category.edits.per_image == 2
    assert category.store == tmp_path / "out" / "store"
    with pytest.raises(ManifestError, match="did you mean mvtec_ad"):
        manifest_for_source("mvtecad", tmp_path)
    with pytest.raises(ManifestError, match=r"edits\.per_image: expected greater than"):
        manifest_for_source("folder", tmp_path, edits={"per_image": -1})


def test_links_may_lead_into_a_folder_that_source_or_category_or_command_line_names(tmp_path):
    text = (
        "sources: {s: {kind: folder, path: photos, follow_links: ../cache}}\n"
        "categories: {mine: {source: s}, yours: {source: s, follow_links: /annex}}\n"
    )
    assert resolved(tmp_path, text).follow_links == tmp_path.parent / "cache"
    yours = resolved(tmp_path, text, "yours")
    assert yours.follow_links == Path("/annex")
    assert override(yours, follow_links=Path("/other")).follow_links == Path("/other")
    # Files decide the plan, not the places that they were read from.
    mine = resolved(tmp_path, SMALLEST)
    assert mine.follow_links is None
    changed = mine.model_copy(update={"follow_links": Path("/annex")})
    assert changed.digest_content() == mine.digest_content()


def test_a_path_of_any_bytes_can_be_written_and_named(tmp_path):
    name = os.fsdecode(b"\xb2\xe2")
    text = r"categories: {mine: {source: folder, path: 'x/\xb2\xe2'}}"
    assert resolved(tmp_path, text).root == tmp_path / "x" / name
    manifest = manifest_for_source("folder", tmp_path / name)
    (category,) = manifest.categories
    assert resolve(manifest, category).root == tmp_path / name
    category.encode()


def test_the_command_line_overrides_the_category(tmp_path):
    text = SMALLEST.replace("photos", "photos, seed: 4, edits: {per_image: 3, kinds: [extra]}")
    mine = override(resolved(tmp_path, text), preset="paper", per_image=1, seed=9, store=tmp_path)
    assert (mine.edits.preset, mine.edits.kinds, mine.edits.per_image) == ("paper", None, 1)
    assert (mine.seed, mine.store) == (9, tmp_path)
    assert override(mine) == mine
    for wrong in ({"preset": "ful"}, {"per_image": -1}, {"seed": -1}):
        with pytest.raises(ManifestError):
            override(mine, **wrong)


def test_settings_are_frozen_and_closed():
    with pytest.raises(ValidationError):
        EditSettings().feather = 4
    with pytest.raises(ValidationError):
        GateSettings(min_delta=1)


@given(st.integers(8, 256), st.integers(8, 256))
def test_image_sizes_and_scaled_pixels(height, width):
    size_HW = (height * 8, width * 8)
    assert as_size(list(size_HW)) == size_HW
    assert as_size(size_HW[0]) == (size_HW[0], size_HW[0])
    assert pixels_at(7, size_HW) == pytest.approx(7 * max(size_HW) / 256)


def test_schema_and_reference_page_are_those_of_the_models():
    advice = "run `python -m pipeline.config.docs --schema`"
    assert SCHEMA_FILE.read_text("utf-8") == schema_text(), advice
    assert PAGE_FILE.read_text("utf-8") == page_text(), advice


def test_the_schema_closes_every_mapping_and_describes_every_key():
    schema = json.loads(schema_text())
    for name, part in [("top", schema), *schema["$defs"].items()]:
        assert part["additionalProperties"] is False, name
        for key, described in part["properties"].items():
            assert described.get("description"), f"{name}.{key}"
