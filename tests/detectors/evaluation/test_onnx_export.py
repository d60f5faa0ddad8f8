"""The ONNX file scores like PyTorch, carries the thresholds, and is deleted when it differs."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from small_evaluations import AD_TYPES, photographs, tiny_known, trained, version_of
from tiny_detector import Tiny, TinySettings

from detectors.evaluation import onnx_export
from detectors.evaluation.onnx_export import compare, export, synthetic_probes
from detectors.training.checkpoint import load
from pipeline.dataset.version import Version
from pipeline.errors import IntegrityError, UserError

CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with tiny_known():
        yield


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return version_of(tmp_path_factory.mktemp("store"), AD_TYPES)


@pytest.fixture(scope="module")
def checkpoint(version: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(version, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def exported(checkpoint: Path, version: Version, tmp_path_factory: pytest.TempPathFactory):
    return export(checkpoint, tmp_path_factory.mktemp("onnx") / "deep" / "tray.onnx", 1e-4, version)


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 4, 10])
def test_it_scores_batches_of_any_size_like_pytorch(exported, checkpoint, batch):
    pixels = np.stack([one.pixels_HW3 for one in photographs()][:batch]).transpose(0, 3, 1, 2)
    scores, maps = session_of(exported.path).run(["score", "map"], {"images": pixels})
    with torch.inference_mode():
        ours = load(checkpoint, **CPU).detector(torch.from_numpy(pixels.copy()))
    np.testing.assert_allclose(scores, ours.image_B, rtol=1e-4)
    np.testing.assert_allclose(maps, ours.maps_BHW, rtol=1e-3, atol=1e-4)
    assert (scores.shape, maps.shape) == ((batch,), (batch, 64, 64))


def test_it_is_one_valid_file_with_named_inputs_and_outputs(exported):
    assert [path.name for path in exported.path.parent.iterdir()] == ["tray.onnx"]
    assert exported.bytes == exported.path.stat().st_size
    onnx.checker.check_model(str(exported.path), full_check=True)
    session = session_of(exported.path)
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [3, 64, 64])
    assert [output.name for output in session.get_outputs()] == ["score", "map"]


def test_its_metadata_has_thresholds_and_origin(exported, checkpoint, version):
    metadata = session_of(exported.path).get_modelmeta().custom_metadata_map
    calibration = load(checkpoint, **CPU).card.calibration
    thresholds = json.loads(metadata["anomalysmith.thresholds"])
    assert thresholds["threshold_1"] == calibration.threshold_1
    assert thresholds["threshold_f1"] == calibration.threshold_f1
    assert metadata["anomalysmith.detector"] == "tiny"
    assert metadata["anomalysmith.size"] == "64"
    assert metadata["anomalysmith.version_digest"] == version.digest
    assert metadata["anomalysmith.licence"] == "CC BY-NC-SA 4.0"


def test_the_probes_are_several_batch_sizes_and_the_validation_split(exported, checkpoint):
    probes = synthetic_probes(64)
    assert {len(batch) for batch in probes} == {1, 3, 8}
    assert all(batch.dtype == torch.uint8 and batch.float().std() > 20 for batch in probes)
    assert all(torch.equal(a, b) for a, b in zip(probes, synthetic_probes(64), strict=True))
    assert exported.images > sum(map(len, probes))
    detector = load(checkpoint, **CPU).detector
    score_error, map_error = compare(exported.path, detector, probes)
    assert max(score_error, map_error) < 1e-4
    # The same probes are among those of the export; the last bits differ from run to run.
    assert exported.score_error >= score_error - 1e-6


def test_other_weights_are_detected(exported):
    score_error, map_error = compare(
        exported.path, Tiny(TinySettings()).eval(), synthetic_probes(64)
    )
    assert min(score_error, map_error) > onnx_export.TOLERANCE


def test_a_file_that_disagrees_is_not_kept_and_nothing_is_printed(
    checkpoint, tmp_path, capfd, recwarn
):
    out = tmp_path / "tray.onnx"
    out.write_bytes(b"yesterday's")
    with pytest.raises(IntegrityError, match=r"differ from PyTorch's by .* was not kept"):
        export(checkpoint, out, tolerance=-1.0)
    assert out.read_bytes() == b"yesterday's"
    assert list(tmp_path.iterdir()) == [out]
    assert tuple(capfd.readouterr()) == ("", "")
    assert not list(recwarn)


def test_an_untraceable_detector_is_a_one_line_user_error(checkpoint, tmp_path, monkeypatch):
    def restless(self, images_B3HW):
        # A branch on pixel values cannot be traced.
        if images_B3HW.float().mean() > 3:
            return plain(self, images_B3HW)
        return plain(self, images_B3HW * 2)

    plain = Tiny.forward
    monkeypatch.setattr(Tiny, "forward", restless)
    with pytest.raises(UserError, match="Tiny cannot be written as ONNX") as caught:
        export(checkpoint, tmp_path / "x.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
