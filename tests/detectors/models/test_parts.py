"""The detector `parts`: deviations from rules, their scale, reasons, maps, checkpoints.

Boards of the toy product, whose parts are found by colour; the networks run in the slow test.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_rules as toy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from detectors.models.parts.finder import BatchFinder, MachineFinder
from detectors.models.parts.model import PartsDetector
from detectors.models.parts.scales import Scales, rate_among
from detectors.models.parts.settings import PartsSettings
from pipeline.errors import UserError
from pipeline.models import build
from pipeline.models.trunks import AnyTrunk, trunk_of
from pipeline.models.weights import store
from pipeline.rulebook.draft import draft
from pipeline.rulebook.parts import Parts
from pipeline.rulebook.second_look import Finder
from pipeline.rulebook.write import write_draft

NORMALS = 20


@cache
def bundled_trunk() -> AnyTrunk:
    return trunk_of("bundled-teacher", store.require("bundled-teacher"))


@pytest.fixture(scope="module", autouse=True)
def few_patches():
    """Flat boards need few patches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detectors.models.parts.unexplained.BANK", 200)
        patch.setattr("detectors.models.parts.surfaces.BANK", 200)
        patch.setattr("detectors.models.parts.surfaces.ENLARGED", 64)
        yield


@dataclass
class ToyMachine:
    """Finds parts by colour; its networks have a digest, like those of a machine."""

    find: Finder = field(default_factory=toy.ToyFinder)
    trunk: AnyTrunk = field(default_factory=bundled_trunk)
    digests: dict[str, str] = field(default_factory=lambda: {"proposals": "a" * 64})


def tensor(images: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def boards(first: int, count: int) -> list[np.ndarray]:
    return [toy.board(seed) for seed in range(first, first + count)]


def fitted(
    images: Sequence[np.ndarray], machine: ToyMachine, rules: Path | None = None
) -> PartsDetector:
    """Fitted and cross-fitted in five parts, as the trainer does."""
    settings = PartsSettings(size=toy.SIZE, rules=rules)
    detector = PartsDetector(settings, BatchFinder(machine)).eval()
    detector.prepare([{"image": tensor(images)}])
    held = []
    for part in np.array_split(np.arange(len(images)), 5):
        fold = PartsDetector(settings, BatchFinder(machine))
        fold.inherit(detector)
        fold.prepare([{"image": tensor([one for k, one in enumerate(images) if k not in part])}])
        held.append(fold.parts(tensor([images[k] for k in part])))
    detector.fuse(torch.cat(held), torch.zeros(0, 8), torch.zeros(0), torch.zeros(0))
    return detector


@pytest.fixture(scope="module")
def detector() -> PartsDetector:
    return fitted(boards(0, NORMALS), ToyMachine())


def altered() -> dict[str, np.ndarray]:
    """One board per way to break the product, by the rule's kind."""
    lacks, extra, swapped, turned, tinted = (toy.board(900) for _ in range(5))
    toy.wipe(lacks, 32, 64)
    toy.disc(extra, 64, 20)
    # A red disc and a blue bar have changed places.
    toy.wipe(swapped, 32, 94)
    toy.wipe(swapped, 92, 84)
    toy.disc(swapped, 92, 84)
    toy.bar(swapped, 32, 94)
    toy.wipe(turned, 92, 44)
    turned[39:50, 80:105] = toy.BLUE
    toy.wipe(tinted, 32, 34)
    toy.disc(tinted, 32, 34, toy.GREEN)
    return {"lacks": lacks, "extra": extra, "swapped": swapped, "turned": turned, "tinted": tinted}


# --- scales ---------------------------------------------------------------------------------------


def test_deviations_are_measured_in_the_spread_of_good_images():
    scales = Scales.of(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    found = scales(torch.tensor([[4.0, 2.0]]))
    # The second rule was never broken: its spread has a lower limit.
    torch.testing.assert_close(found, torch.tensor([[2.0, 10.0]], dtype=torch.float64))


@given(st.lists(st.floats(0, 5), min_size=1, max_size=30), st.floats(0, 8), st.floats(0, 8))
def test_a_larger_deviation_never_scores_lower(normals, one, other):
    scales = Scales.of(torch.tensor(normals, dtype=torch.float64)[:, None])
    low, high = scales(torch.tensor([[min(one, other)], [max(one, other)]], dtype=torch.float64))
    assert low <= high


def test_without_good_images_deviations_stay_as_they_are():
    offs = torch.tensor([[0.5, 2.0]], dtype=torch.float64)
    assert torch.equal(Scales.of(torch.zeros(0, 2))(offs), offs)


def test_the_rate_of_a_deviation_counts_the_image_itself():
    normals = torch.tensor([0.0, 1.0, 2.0])
    assert rate_among(torch.tensor(1.5), normals) == pytest.approx(2 / 4)
    assert rate_among(torch.tensor(9.0), normals) == pytest.approx(1 / 4)
    # Exactly: reasons are compared with the lowest rate that so many images can show.
    for count in range(1, 50):
        assert rate_among(torch.tensor(1.0), torch.zeros(count)) == 1 / (count + 1)


# --- what it sees ---------------------------------------------------------------------------------


def test_every_altered_board_scores_higher_than_every_good_one(detector):
    good = detector(tensor(boards(100, 30))).image_B
    bad = detector(tensor(list(altered().values()))).image_B
    assert bad.min() > good.max()


@pytest.mark.parametrize(
    ("how", "rule", "found"),
    [
        ("lacks", "part_1.count", "2"),
        ("extra", "part_1.count", "4"),
        ("swapped", "order", "part_1 in another's slot"),
        ("turned", "part_2.turn", "turned by 90 degrees"),
        ("tinted", "part_1.colour", ""),
    ],
)
def test_the_reasons_name_the_broken_rule(detector, how, rule, found):
    reasons = detector.reasons(tensor([altered()[how]]))[0]
    named = {reason.rule: reason for reason in reasons}
    assert rule in named
    assert found in named[rule].found
    # Of 20 good images none is like this.
    assert named[rule].rate == pytest.approx(1 / (NORMALS + 1))


def test_good_boards_have_no_reasons(detector):
    assert detector.reasons(tensor(boards(100, 10))) == [[] for _ in range(10)]


def test_a_missing_part_is_shown_at_its_place_and_an_extra_one_at_itself(detector):
    both = altered()
    maps_BHW = detector(tensor([both["lacks"], both["extra"]])).maps_BHW
    for map_HW, (x, y) in zip(maps_BHW, [(32, 64), (64, 20)], strict=True):
        assert map_HW[y, x] == map_HW.max() > 0
        # Other parts are not concerned.
        assert map_HW[84, 92] < map_HW[y, x]
    (reason,) = [r for r in detector.reasons(tensor([both["lacks"]]))[0] if "count" in r.rule]
    (box,) = reason.missing
    x0, y0, x1, y1 = box
    assert not reason.boxes
    assert x0 < 32 < x1
    assert y0 < 64 < y1


def test_a_part_that_the_finder_often_overlooks_raises_no_alarm():
    """Of one board in ten the finder overlooks a disc, among the normals and later: no news."""

    def careless(image_HW3: np.ndarray) -> bool:
        # Which boards is decided by their noise.
        return int(image_HW3.astype(int).sum()) % 10 == 0

    class Careless(toy.ToyFinder):
        def __call__(self, image_HW3: np.ndarray) -> Parts:
            parts = super().__call__(image_HW3)
            if not careless(image_HW3):
                return parts
            return Parts(parts.masks_NHW[1:], parts.descriptors[1:], parts.frame)

    detector = fitted(boards(0, 40), ToyMachine(Careless()))
    score = detector(tensor([next(filter(careless, boards(100, 100)))])).image_B
    held = detector.combined(detector.normals.kinds_NP)
    assert 0.02 < float((held >= score - 0.1).double().mean()) < 0.3


def test_a_given_rule_book_names_the_reasons(tmp_path):
    images = boards(0, 14)
    found = [toy.ToyFinder()(image) for image in images]
    path = tmp_path / "board.rules.yaml"
    write_draft(draft(found, "board"), path, found, images.__getitem__)
    path.write_text(path.read_text().replace("part_1", "disc"))
    reasons = fitted(images, ToyMachine(), path).reasons(tensor([altered()["lacks"]]))[0]
    assert reasons[0].rule == "disc.count"
    # A changed book is another training; without the file, a checkpoint's settings still load.
    before = PartsSettings(rules=path)
    path.write_text(path.read_text().replace("disc", "washer"))
    assert PartsSettings(rules=path).rules_digest != before.rules_digest
    path.unlink()
    assert PartsSettings.model_validate(before.model_dump()) == before
    with pytest.raises(UserError, match=r"board\.rules\.yaml"):
        PartsSettings(rules=path)
    assert str(reasons[0]) == "disc.count: expected 3, found 2 (93 % sure)"


def test_what_no_good_image_shows_is_a_reason_of_its_own(detector):
    """A grey cross beside all parts: the finder, which looks for colours, finds nothing."""
    crossed = toy.board(900)
    crossed[108:112, 52:72] = crossed[100:120, 60:64] = 20
    named = {reason.rule: reason for reason in detector.reasons(tensor([crossed]))[0]}
    ((x0, y0, x1, y1),) = named["unknown.looks"].boxes
    assert x0 <= 62 <= x1
    assert y0 <= 110 <= y1
    assert "times as far from it as usual" in named["unknown.looks"].found
    map_HW = detector(tensor([crossed])).maps_BHW[0]
    assert map_HW[110, 62] > 0.5 * map_HW.max()


def test_a_scratch_is_a_reason_and_is_shown_where_it_is(detector):
    """Pale on a red disc, so that the finder sees the same disc."""
    scratched = toy.board(900)
    scratched[30:38, 34:36] = (235, 160, 160)
    named = {reason.rule: reason for reason in detector.reasons(tensor([scratched]))[0]}
    part, (x0, y0, x1, y1) = named["part_1.surface"].boxes
    assert x0 < 35 < x1
    assert y0 < 34 < y1
    assert (x1 - x0) * (y1 - y0) < (part[2] - part[0]) * (part[3] - part[1]) / 2
    assert "times as far from it as usual" in named["part_1.surface"].found
    map_HW = detector(tensor([scratched])).maps_BHW[0]
    assert map_HW[34, 35] > 0.5 * map_HW.max()
    # Parts of the same kind are not concerned.
    assert map_HW[94, 32] < 0.1 * map_HW.max()


def test_the_networks_of_a_machine_are_named():
    """As a run's lineage names them: parts by the first two, patches by the last."""
    digests = MachineFinder().digests
    assert {name.split("/")[0] for name in digests} == {"foreground", "proposals", "features"}
    assert all(len(digest) == 64 for digest in digests.values())


def test_loading_the_networks_leaves_the_threads_of_the_process():
    """The generator works with one thread, which had made one of `train --threads N`, too."""
    threads = torch.get_num_threads()
    build._resident.cache_clear()
    try:
        torch.set_num_threads(3)
        MachineFinder().find  # noqa: B018
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


# --- contract -------------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_book_and_gives_the_same_scores(detector):
    images = tensor([*boards(100, 3), *altered().values()])
    again = PartsDetector(detector.settings, BatchFinder(ToyMachine())).eval()
    again.load_state_dict(detector.state_dict())
    for one, other in zip(detector(images), again(images), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(detector.combined(detector.parts(images)), detector(images).image_B)
    assert again.reasons(images) == detector.reasons(images)


def test_other_networks_than_those_of_the_fit_are_refused(detector):
    other = PartsDetector(
        detector.settings, BatchFinder(ToyMachine(digests={"proposals": "b" * 64}))
    )
    other.load_state_dict(detector.state_dict())
    said = r"fitted with the network proposals aaaa.*takes bbbb.*weights pull"
    with pytest.raises(UserError, match=said):
        other(tensor(boards(0, 1)))


def test_a_product_without_parts_is_refused():
    plates = [np.full((toy.SIZE, toy.SIZE, 3), 100 + seed, np.uint8) for seed in range(8)]
    with pytest.raises(UserError, match="no part was found in 8 images"):
        fitted(plates, ToyMachine())


def test_more_images_than_are_remembered(monkeypatch):
    monkeypatch.setattr("detectors.models.parts.finder.REMEMBERED", 4)
    machine = BatchFinder(ToyMachine())
    batches = tensor(boards(0, 6)).split(3)
    first, second = ([len(one) for b in batches for one in machine.parts(b)] for _ in range(2))
    assert first == second == [5] * 6


def test_folds_find_every_image_once():
    machine = ToyMachine()
    fitted(boards(0, 10), machine)
    assert machine.find.calls == 10  # type: ignore[attr-defined]
