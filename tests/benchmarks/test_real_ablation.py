"""The ablation on real parts: the share of an edit that is mended, and what the rows change."""

import numpy as np
import pytest
import torch
from small_results import small_version
from torch import nn

from benchmarks.real_detectors.ablation import ROWS, recipe_of, table_of
from benchmarks.real_detectors.mending import share_mended
from detectors.data.dataset import VersionDataset
from detectors.models.semrec.model import SemRec, SemRecSettings
from detectors.networks.corruption import LEVELS
from detectors.training.checkpoint import Restored
from pipeline.errors import UserError
from pipeline.models.backbone import Trunk, normalise
from pipeline.models.device import Compute

SIZE = (64, 64)


class Mixed(nn.Module):
    """A branch that knows the originals: `share` of their features, the rest of what it sees."""

    def __init__(self, teacher, originals, share):
        super().__init__()
        self.teacher, self.originals, self.share = teacher, list(originals), share

    def forward(self, images):
        count = len(images)
        clean, self.originals = self.originals[:count], self.originals[count:]
        aims = self.teacher(normalise(torch.stack(clean)))
        return tuple(
            self.share * aim + (1 - self.share) * seen
            for aim, seen in zip(aims, self.teacher(images), strict=True)
        )


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return small_version(tmp_path_factory.mktemp("store"), images=10, size=SIZE)


def restored(version, share, **changes):
    torch.manual_seed(0)
    settings = SemRecSettings(size=64, encoders="own", unet_base=2, noise="perlin_self", **changes)
    detector = SemRec(settings, Trunk((8, 16, 32))).eval()
    if share is not None:
        pairs = VersionDataset.pairs(version, "validation", label=1)
        originals = [pairs[place]["original"] for place in range(len(pairs))]
        detector.branches["object"] = Mixed(detector.teacher, originals, share)
    return Restored(detector, None, Compute(torch.device("cpu"), torch.float32))


def by_hand(version, teacher, share):
    """The definition pixel by pixel: an own average of the mask over cells, own cosines."""
    pairs = VersionDataset.pairs(version, "validation", label=1)
    left, made = np.zeros(3), np.zeros(3)
    for place in range(len(pairs)):
        pair = pairs[place]
        with torch.inference_mode():
            aims = [m[0].numpy() for m in teacher(normalise(pair["original"][None]))]
            seen = [m[0].numpy() for m in teacher(normalise(pair["edited"][None]))]
        mask_HW = pair["mask"].numpy().astype(float)
        for level, (aim, now) in enumerate(zip(aims, seen, strict=True)):
            side = SIZE[0] // aim.shape[1]
            for y, x in np.ndindex(aim.shape[1:]):
                cell = np.s_[y * side : (y + 1) * side, x * side : (x + 1) * side]
                weight = mask_HW[cell].mean()
                mix = share * aim[:, y, x] + (1 - share) * now[:, y, x]
                left[level] += weight * apart(mix, aim[:, y, x])
                made[level] += weight * apart(now[:, y, x], aim[:, y, x])
    return dict(zip(LEVELS, 1 - left / made, strict=True))


def apart(one, other):
    lengths = np.sqrt((one**2).sum() + 1e-6) * np.sqrt((other**2).sum() + 1e-6)
    return 1 - one @ other / lengths


def test_a_branch_that_restores_the_original_mends_all_and_one_that_copies_mends_nothing(version):
    assert share_mended(restored(version, 1.0), version) == pytest.approx(
        dict.fromkeys(LEVELS, 1.0), abs=1e-2
    )
    assert share_mended(restored(version, 0.0), version) == pytest.approx(
        dict.fromkeys(LEVELS, 0.0), abs=1e-5
    )


def test_the_share_mended_is_as_defined(version):
    half = restored(version, 0.5)
    expected = by_hand(version, half.detector.teacher, 0.5)
    assert all(0.1 < value < 0.95 for value in expected.values())
    assert share_mended(half, version) == pytest.approx(expected, abs=1e-3)


def test_a_detector_without_an_object_branch_mends_no_edit(version):
    with pytest.raises(UserError, match="object branch"):
        share_mended(restored(version, None, branches="local"), version)


def test_rows_differ_in_what_the_object_branch_sees_and_train_equally_long():
    recipes = {row.name: recipe_of(row, "tiny", 7, {"branches": "object"}) for row in ROWS}
    seen = {
        name: (recipe.settings.clean_share, recipe.settings.inputs)
        for name, recipe in recipes.items()
    }
    assert seen["edited"][0] < 1
    assert seen["clean"] == (1.0, "separate")
    assert seen["perlin"] == (1.0, "shared")
    for recipe in recipes.values():
        assert (recipe.schedule.steps, recipe.schedule.stop_on) == (7, "never")
        assert (recipe.settings.encoders, recipe.settings.branches) == ("own", "object")


def test_the_table_has_auroc_and_mended_shares_side_by_side():
    result = {
        "category": "tray", "row": "clean",
        "metrics": {"image_auroc": 0.75, "per_type": {"logical": {"image_auroc": 0.5}}},
        "mended": {"fine": 0.04, "middle": 0.33, "coarse": 0.15},
    }  # fmt: skip
    row = table_of([result]).splitlines()[-1]
    assert row == "| tray | clean | clean images only | 0.500 | – | 0.750 | 0.04 | 0.33 | 0.15 |"
