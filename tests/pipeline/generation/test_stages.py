"""Generation over images and categories: attempts, rejections, bad files, workers, the cache."""

import hashlib
from collections import Counter

import cv2
import numpy as np
import pytest
from small_sources import mvtec_loco, write_images

from pipeline.config.manifest import manifest_for_source, resolve
from pipeline.edits.context import ImageContext
from pipeline.edits.presets import PRESETS
from pipeline.generation import cache_keys
from pipeline.generation import plan as planning
from pipeline.generation.analysis import analyse_batch, images_to_analyse
from pipeline.generation.cache_keys import (
    CALIBRATION_IMAGES,
    PlannedImage,
    calibration_images,
    donors_of,
    with_keys,
)
from pipeline.generation.calibrate import calibrate
from pipeline.generation.outcome import Ledger
from pipeline.generation.pack import pack
from pipeline.generation.sampler import BARREN, generate_batch, generate_samples, sample_seed
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.part_kinds import kinds as part_kinds
from pipeline.records import ObjectProposals
from scenes.render import render

TELEA = {"inpaint": {"backend": "telea"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three rendered bags as a plain folder of images."""
    root = tmp_path_factory.mktemp("source") / "bags"
    root.mkdir()
    for seed in range(3):
        image_HW3 = render("bag", seed, size=256).image_HW3
        cv2.imwrite(str(root / f"{seed}.png"), image_HW3[..., ::-1])
    return root


def settings_of(folder, store, kind="folder", **overrides):
    edits = {"per_image": 3, "controls_per_image": 1, **overrides.pop("edits", {})}
    manifest = manifest_for_source(
        kind, folder, store=str(store), models=TELEA, edits=edits, **overrides
    )
    return resolve(manifest, "bags")


def run(plan):
    ledger = Ledger()
    for outcome in generate_batch(plan, plan.images):
        ledger.add(outcome)
    return ledger, pack(plan, ledger.failures)


def test_a_category_becomes_a_version_and_the_cache_serves_it_again(folder, tmp_path):
    plan = planning.plan(settings_of(folder, tmp_path))
    assert len(plan.missing()) == 3
    ledger, version = run(plan)
    assert (ledger.images, ledger.cached, ledger.failures) == (3, 0, [])
    assert ledger.accepted >= 3
    assert plan.missing() == ()
    again, same = run(planning.load_plan(plan.save()))
    assert again.cached == 3
    assert same.digest == version.digest


def test_a_version_keeps_the_size_that_its_images_had(folder, tmp_path):
    _, version = run(planning.plan(settings_of(folder, tmp_path, image_size=128)))
    assert version.image_size == (128, 128)
    assert version.index["original_size"] == [256, 256]


def test_the_digest_knows_seed_and_settings_but_no_folder(folder, tmp_path):
    digests = {}
    for name, overrides in {
        "one": {},
        "elsewhere": {},
        "seed": {"seed": 1},
        "edits": {"edits": {"dilation": 6}},
    }.items():
        plan = planning.plan(settings_of(folder, tmp_path / name, **overrides))
        digests[name] = run(plan)[1].digest
    assert digests["one"] == digests["elsewhere"]
    assert len(set(digests.values())) == 3


def test_a_bad_file_costs_only_itself(folder, tmp_path):
    import shutil

    mixed = tmp_path / "bags"
    shutil.copytree(folder, mixed)
    whole = (mixed / "0.png").read_bytes()
    (mixed / "cut.png").write_bytes(whole[: len(whole) // 2])
    (mixed / "empty.png").write_bytes(b"")
    plan = planning.plan(settings_of(mixed, tmp_path / "store"))
    ledger, version = run(plan)
    failed = {failure["name"] for failure in version.index["failures"]}
    assert failed == {"cut.png", "empty.png"}
    assert version.index["counts"]["images"] == 3
    assert ledger.accepted >= 3


def test_settings_changed_for_the_gate_reuse_the_analysis(folder, tmp_path):
    run(planning.plan(settings_of(folder, tmp_path)))
    changed = planning.plan(settings_of(folder, tmp_path, gate={"min_delta_e": 5.0}))
    assert len(changed.missing()) == 3
    cache = changed.cache
    assert all(cache.has("analysis", image.analysis_key) for image in changed.images)


def test_a_rule_book_brings_its_descriptor_network_into_the_key(folder, tmp_path, monkeypatch):
    """Without patches in the gate the teacher still describes the parts that rules are about."""
    settings = settings_of(folder, tmp_path, gate={"patches": False})
    (tmp_path / "book.yaml").write_text("any text: the key asks for its digest")
    monkeypatch.setattr(cache_keys, "rules_digest", lambda settings: "b" * 64)
    ruled = settings.model_copy(update={"rules": tmp_path / "book.yaml"})
    image = PlannedImage("a", "a.png", "train", "a" * 64)
    keys = {}
    for teacher in ("1" * 64, "2" * 64):
        monkeypatch.setattr(cache_keys.weight_files, "sha256", lambda path, own=teacher: own)
        for name, one in (("plain", settings), ("ruled", ruled)):
            keys[name, teacher[0]] = with_keys(one, {}, [image])[0][0].samples_key
    assert keys["plain", "1"] == keys["plain", "2"]
    assert keys["ruled", "1"] != keys["ruled", "2"]


@pytest.mark.parametrize(("limit", "held"), [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (30, 3)])
def test_a_limit_takes_the_first_names_and_then_holds_some_out(tmp_path, limit, held):
    write_images(tmp_path / "bags", *(f"{number:02}.png" for number in range(40)))
    plan = planning.plan(settings_of(tmp_path / "bags", tmp_path), limit=limit)
    assert [image.name for image in plan.images] == [f"{n:02}.png" for n in range(limit)]
    assert sum(image.split == "validation" for image in plan.images) == held
    # With fewer than two, one line says so.
    notes = [note for note in plan.notes if "held out for validation" in note]
    assert len(notes) == (held < 2)


@pytest.mark.parametrize(("limit", "told"), [(4, True), (5, True), (7, False)])
def test_one_line_says_that_so_few_images_tell_no_part_kinds(tmp_path, limit, told):
    """Of 4, 5 and 7 images 2, 3 and 5 are for training."""
    assert planning.KIND_IMAGES == part_kinds.LEAST_IMAGES
    (tmp_path / "bags").mkdir()
    for number in range(12):
        # Copies of one image count once.
        image_HW3 = np.full((64, 64, 3), number, np.uint8)
        cv2.imwrite(str(tmp_path / "bags" / f"{number:02}.png"), image_HW3)
    plan = planning.plan(settings_of(tmp_path / "bags", tmp_path), limit=limit)
    assert any("part kinds take 4 good images" in note for note in plan.notes) == told


def test_a_limit_keeps_the_share_of_a_given_validation_split(tmp_path):
    settings = settings_of(mvtec_loco(tmp_path / "bags"), tmp_path, kind="mvtec_loco")
    entries = planning.plan(settings).images
    counts = Counter(image.split for image in planning.plan(settings, limit=2).images)
    assert counts == {"train": 1, "validation": 1}
    assert planning.plan(settings, limit=len(entries)).images == entries


def two_squares(size: int = 64) -> tuple[np.ndarray, ObjectProposals]:
    image = np.full((size, size, 3), 200, np.uint8)
    image += np.random.default_rng(0).integers(0, 6, image.shape, np.uint8)
    masks = np.zeros((2, size, size), np.bool_)
    masks[0, 10:22, 10:22] = masks[1, 40:52, 40:52] = True
    image[masks[0]], image[masks[1]] = (30, 30, 160), (160, 30, 30)
    return image, ObjectProposals(masks, np.ones(2, np.float32), np.ones((size, size), np.bool_))


def test_every_rejected_sample_is_tried_again_with_the_next_seed_up_to_the_quota(folder, tmp_path):
    image, proposals = two_squares()
    settings = settings_of(folder, tmp_path, edits={"attempts": 5, "kinds": ["missing"]})
    do_nothing = lambda image, hole, avoid: image  # noqa: E731
    attempts = generate_samples(settings, "ab" * 32, ImageContext(image, proposals, do_nothing))
    anomalies = [a for a in attempts if a.kind == "missing"]
    assert {a.verdict.reason for a in anomalies} <= {"unchanged", "faint", "tried_before"}
    assert [a.attempt for a in anomalies] == list(range(5)) * 3
    assert len({a.seed for a in attempts}) == len(attempts)


def test_kinds_take_turns_without_fruitless_ones_and_controls_come_last(folder, tmp_path):
    image, proposals = two_squares()
    settings = settings_of(folder, tmp_path, edits={"per_image": 4, "controls_per_image": 2})
    attempts = generate_samples(
        settings, "ab" * 32, ImageContext(image, proposals, OpenCvInpainter("telea"))
    )
    first = [a.kind for a in attempts if a.attempt == 0]
    turns = PRESETS["full"]
    start = turns.index(first[0])
    fruitless: Counter[str] = Counter()
    for number in range(4):
        order = [turns[(start + number + n) % len(turns)] for n in range(len(turns))]
        assert first[number] == next(kind for kind in order if fruitless[kind] < BARREN)
        for a in (a for a in attempts if a.number == number):
            wasted = 2 if a.verdict.reason == "no_edit" else 1
            fruitless[a.kind] = 0 if a.verdict.accepted else fruitless[a.kind] + wasted
    # Two equal squares cannot trade places.
    assert fruitless["swapped"] >= BARREN
    assert set(first[4:]) == {"control_noop", "control_background"}


def test_without_candidates_the_reason_is_counted_once_per_sample(folder, tmp_path):
    image, proposals = two_squares()
    nothing = ObjectProposals(
        proposals.masks_NHW[:0], proposals.scores_N[:0], proposals.foreground_HW
    )
    settings = settings_of(folder, tmp_path)
    attempts = generate_samples(settings, "ab" * 32, ImageContext(image, nothing))
    assert [a.verdict.reason for a in attempts] == ["no_candidate"] * 4


def test_a_seed_depends_on_each_of_its_parts():
    base = (0, "bottle", "ab" * 32, 1, 2)
    others = [(1, *base[1:]), (0, "bag", *base[2:]), (0, "bottle", "cd" * 32, 1, 2),
              (0, "bottle", "ab" * 32, 2, 2), (0, "bottle", "ab" * 32, 1, 3)]  # fmt: skip
    seeds = {sample_seed(*parts) for parts in (base, *others)}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**62 for seed in seeds)


# --- phases: analyse, calibrate, sample -----------------------------------------------------------


def normals(cache):
    return sorted(path.name for path in (cache.root / "normality").rglob("*.npz"))


def test_three_phases_make_what_one_makes(folder, tmp_path):
    plans = [planning.plan(settings_of(folder, tmp_path / name)) for name in ("three", "one")]
    phased, at_once = plans
    outcomes = analyse_batch(phased, phased.images)
    assert all(o.analysis_seconds > 0 and not o.samples_seconds for o in outcomes)
    assert {image.name for image in images_to_analyse(phased)} <= {i.name for i in phased.images}
    calibrate(phased)
    assert images_to_analyse(phased) == ()
    done = generate_batch(phased, phased.images)
    assert all(o.samples_seconds > 0 and not o.analysis_seconds for o in done)
    digests = {run(plan)[1].digest for plan in plans}
    assert len(digests) == 1
    assert normals(phased.cache) == normals(at_once.cache) == [f"{phased.calibration_key}.npz"]


def test_a_version_says_what_its_gate_learned(folder, tmp_path):
    version = run(planning.plan(settings_of(folder, tmp_path)))[1]
    assert version.index["limits"]["images"] == len(list(version.images("train")))
    assert version.index["limits"]["max_outline_ratio"] > 1


def test_the_gate_is_calibrated_on_the_smallest_digests_of_the_training_images():
    images = [
        PlannedImage(f"{n}.png", "", "validation" if n % 5 == 0 else "train",
                              f"{(n * 7919) % 101:064x}")
        for n in range(100)
    ]  # fmt: skip
    chosen = calibration_images(images)
    assert len(chosen) == CALIBRATION_IMAGES
    train = sorted(image.digest for image in images if image.split == "train")
    assert [image.digest for image in chosen] == train[:CALIBRATION_IMAGES]
    assert calibration_images(images[::-1]) == chosen


def test_a_new_image_changes_the_donors_of_few():
    def images(count):
        digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(count)]
        return [PlannedImage(str(n), "", "train", d) for n, d in enumerate(digests)]

    before, after = images(40), images(41)
    donors = [donors_of(image, before) for image in before]
    assert all(len(set(pair)) == 2 and str(n) not in pair for n, pair in enumerate(donors))
    changed = sum(donors_of(i, after) != pair for i, pair in zip(before, donors, strict=True))
    assert changed <= 8  # two in forty on average


def test_no_donor_is_of_another_split():
    images = [
        PlannedImage(str(n), "", "validation" if n < 3 else "train", f"{n:064x}") for n in range(8)
    ]
    for image in images:
        donors = [other for other in images if other.name in donors_of(image, images)]
        assert {other.split for other in donors} == {image.split}
