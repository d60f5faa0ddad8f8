"""`show`: the lineage of a sample is complete, and the triptych shows it."""

import hashlib
import json

import numpy as np
import pytest
from small_results import header, image_result, small_version

from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.reports.sample import GAP, bar_height, find_sample, lineage, triptych

SIZE = (48, 60)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    results = [image_result(number, SIZE) for number in range(2)]
    head = header(weights={"foreground/u2net": "ab"}, code_version="c0de", software={"numpy": "2"})
    return small_version(tmp_path_factory.mktemp("store"), tests=0, results=results, head=head)


def bits_digest(mask_HW: np.ndarray) -> str:
    """A mask's digest as docs/format.md defines it."""
    bits = np.packbits(mask_HW, axis=-1)
    head = json.dumps({"dtype": "|u1", "shape": list(bits.shape)}, separators=(",", ":"))
    return hashlib.sha256(head.encode() + b"\n" + bits.tobytes()).hexdigest()


def test_the_lineage_is_complete(version):
    result = image_result(1, SIZE)
    attempt = result.attempts[2]
    found = lineage(version, find_sample(version, "train/good/001.png@2.0"))
    assert found["source"] == {"name": result.name, "digest": result.digest, "split": result.split}
    assert (found["kind"], found["number"], found["attempt"]) == ("extra", 2, 0)
    assert found["seed"] == attempt.seed
    assert found["edit"]["parameters"] == {"offset": [2, -1], "share": 0.25}
    assert found["scores"] == attempt.verdict.scores
    assert found["seconds"] == attempt.seconds
    assert found["change_mask"]["digest"] == bits_digest(attempt.sample.change_HW)
    assert found["object_mask"]["digest"] == bits_digest(attempt.sample.object_HW)
    assert found["foreground"]["digest"] == bits_digest(result.foreground.mask_HW)
    assert found["foreground"]["peak"] == 0.875
    (proposal,) = found["proposals"]
    assert proposal["id"] == 2
    assert proposal["digest"] == bits_digest(result.proposals.masks_NHW[2])
    assert proposal["box"] == result.proposals.boxes_N4[2].tolist()
    assert proposal["score"] == result.proposals.scores_N[2]
    assert found["weights"] == {"foreground/u2net": "ab"}
    assert (found["code_version"], found["software"]) == ("c0de", {"numpy": "2"})
    assert found["dataset_digest"] == version.digest
    assert json.loads(json.dumps(found)) == found


def test_a_kept_reject_has_a_lineage_too(version):
    found = lineage(version, find_sample(version, "train/good/000.png@1.0"))
    assert (found["accepted"], found["reason"]) == (False, "seam")
    assert found["seconds"] == image_result(0, SIZE).attempts[1].seconds


def test_the_triptych_shows_original_edit_and_mask(version):
    result = image_result(0, SIZE)
    sample = result.attempts[0].sample
    assert sample is not None
    height, width = SIZE
    image_HW3 = triptych(find_sample(version, "0"))
    bar = bar_height(width)
    assert image_HW3.shape == (height + bar, 3 * width + 2 * GAP, 3)
    left, middle, right = (
        image_HW3[bar:, start : start + width] for start in range(0, 3 * width, width + GAP)
    )
    assert np.array_equal(left, result.pixels_HW3)
    assert np.array_equal(middle, sample.pixels_HW3)
    assert np.array_equal(right[~sample.change_HW], sample.pixels_HW3[~sample.change_HW])
    assert (right[sample.change_HW] != sample.pixels_HW3[sample.change_HW]).any(1).mean() > 0.9
    # Each image has a label above it.
    for column in range(3):
        start = column * (width + GAP)
        assert image_HW3[:bar, start : start + width].min() < 100


def test_an_unknown_sample_is_a_user_error(version):
    with pytest.raises(UserError, match=r"no sample 'x'; it holds 6, .* train/good/000\.png@0\.0"):
        find_sample(version, "x")
