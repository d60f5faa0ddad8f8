"""The ONNX file scores like PyTorch, carries the thresholds, and is deleted when it differs."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
from small_evaluations import AD_TYPES, photographs, tiny_known, trained, version_of
from tiny_detector import Tiny, TinySettings

from detectors.evaluation import onnx_export
from detectors.evaluation.onnx_export import compare, export, synthetic_probes
from detectors.evaluation.predict import predict
from detectors.training.calibration import from_scores
from detectors.training.checkpoint import load
from pipeline.dataset.version import Version
from pipeline.errors import IntegrityError, UserError
from pipeline.imaging.decode import ORIENTATION_TAG

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


def from_file(session: onnxruntime.InferenceSession, file: Path) -> float:
    """The score as a program without anomalysmith computes it."""
    photo = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    images = np.asarray(photo).transpose(2, 0, 1)[None]
    return float(session.run(["score"], {"images": images})[0][0])


def same_verdicts(checkpoint: Path, onnx_file: Path, files: list[Path]) -> None:
    """Scores of image files are those of `predict`, and so are the verdicts at every threshold."""
    session = session_of(onnx_file)
    thresholds = json.loads(session.get_modelmeta().custom_metadata_map["anomalysmith.thresholds"])
    assert len(thresholds) == 3
    for one in predict(checkpoint, files, **CPU).images:
        score = from_file(session, Path(one.path))
        assert score == pytest.approx(one.score, rel=1e-3)
        assert {name: score >= limit for name, limit in thresholds.items()} == one.over


def test_files_of_any_size_get_the_verdicts_of_predict(exported, checkpoint, tmp_path):
    sizes = [(64, 64), (90, 50), (50, 90), (203, 201), (64, 300), (300, 64), (128, 128)]
    for number, (one, size) in enumerate(zip(photographs(), sizes, strict=False)):
        image = Image.fromarray(one.pixels_HW3).resize(size)
        # One lies on its side, as cameras store portraits.
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = 6 if number == 1 else 1
        image.save(tmp_path / f"{number}.jpg", quality=95, exif=exif)
    same_verdicts(checkpoint, exported.path, sorted(tmp_path.iterdir()))


def test_real_photographs_get_the_verdicts_of_predict(exported, checkpoint, shared):
    bottle = shared / "data" / "mvtec_ad" / "bottle" / "test"
    same_verdicts(checkpoint, exported.path, sorted(bottle.glob("*/*.png"))[:20])


@pytest.mark.slow
def test_without_held_out_images_there_are_scores_and_the_reason(checkpoint, tmp_path):
    card = json.loads((checkpoint / "checkpoint.json").read_text())
    card["calibration"] = from_scores(*[np.zeros(0)] * 4).model_dump(mode="json")
    shutil.copytree(checkpoint, tmp_path / "bare")
    (tmp_path / "bare" / "checkpoint.json").write_text(json.dumps(card))
    # Through a link, of which the file is replaced, not the link.
    (tmp_path / "newest.onnx").symlink_to("bare.onnx")
    bare = export(tmp_path / "bare", tmp_path / "newest.onnx")
    assert bare.path == tmp_path / "bare.onnx"
    assert (tmp_path / "newest.onnx").is_symlink()
    assert bare.thresholds == {}
    assert bare.notes["threshold_1"].startswith("no normal was held out")
    metadata = session_of(bare.path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["anomalysmith.thresholds"]) == {}
    assert json.loads(metadata["anomalysmith.threshold_notes"]) == bare.notes
    assert json.loads(metadata["anomalysmith.heat"]) is None


def test_it_is_one_valid_file_with_named_inputs_and_outputs(exported):
    assert [path.name for path in exported.path.parent.iterdir()] == ["tray.onnx"]
    assert exported.bytes == exported.path.stat().st_size
    onnx.checker.check_model(str(exported.path), full_check=True)
    session = session_of(exported.path)
    (images,) = session.get_inputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", 3, "height", "width"]
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
    probes = synthetic_probes((64, 64))
    shapes = {tuple(batch.shape) for batch in probes}
    assert shapes == {(1, 3, 64, 64), (3, 3, 96, 96), (8, 3, 77, 122)}
    assert all(batch.dtype == torch.uint8 and batch.float().std() > 20 for batch in probes)
    assert all(torch.equal(a, b) for a, b in zip(probes, synthetic_probes((64, 64)), strict=True))
    assert exported.images > sum(map(len, probes))
    detector = load(checkpoint, **CPU).detector
    score_error, map_error = compare(exported.path, detector, (64, 64), probes)
    assert max(score_error, map_error) < 1e-4
    # The same probes are among those of the export; the last bits differ from run to run.
    assert exported.score_error >= score_error - 1e-6


def test_other_weights_are_detected(exported):
    score_error, map_error = compare(
        exported.path, Tiny(TinySettings()).eval(), (64, 64), synthetic_probes((64, 64))
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


def test_a_folder_as_the_file_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; name a file, such as .*detector\.onnx"):
        export(tmp_path / "no checkpoint", tmp_path)


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
