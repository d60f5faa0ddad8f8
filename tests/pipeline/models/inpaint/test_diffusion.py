"""Fill and replace with a real, tiny Stable Diffusion pipeline: what changes, and what decides it.

Its weights are random, so nothing here tests the quality of an image. The pipeline's raw output
differs from the image in every pixel, so an unchanged outside of the mask proves the compositing.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_diffusion import SIDE, save_tiny_pipeline

from pipeline.errors import DeviceError, WeightsError
from pipeline.models import build as models
from pipeline.models.device import Compute
from pipeline.models.inpaint.diffusers_folder import check_folder, forbids_commerce, stated_licence
from pipeline.models.inpaint.diffusion import DiffusionFiller
from pipeline.models.settings import FillBackend, ModelSettings, ProposalSettings
from pipeline.models.weights import store as weights

FP32 = Compute(torch.device("cpu"), torch.float32)
QUICK = FillBackend(backend="diffusers", steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_pipeline(tmp_path_factory.mktemp("weights") / "tiny-inpainting")


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


@pytest.fixture(scope="module")
def paint(folder) -> DiffusionFiller:
    torch.set_num_threads(1)
    return DiffusionFiller(folder, QUICK, FP32)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rectangle(height: int, width: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask_HW = np.zeros((height, width), np.bool_)
    mask_HW[y0:y1, x0:x1] = True
    return mask_HW


MASKS = {
    "in the middle": rectangle(96, 130, 40, 30, 70, 60),
    "at the upper left": rectangle(96, 130, 0, 0, 12, 9),
    "at the lower right": rectangle(96, 130, 110, 80, 130, 96),
    "wider than the window": rectangle(96, 330, 20, 30, 320, 60),
    "the whole image": rectangle(80, 96, 0, 0, 96, 80),
    "in a small image": rectangle(24, 40, 10, 5, 20, 15),
}


def test_the_native_size_is_read_from_the_pipeline(paint):
    assert paint.side == SIDE == 64


@pytest.mark.parametrize("where", MASKS)
@pytest.mark.parametrize("mode", ["fill", "replace"])
def test_only_the_region_of_the_mode_changes(paint, where, mode):
    mask = MASKS[where]
    image = noise(*mask.shape)
    result = paint(image, mask, "a red screw", 7, mode)
    inpainted = mask if mode == "fill" else ~mask
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert np.array_equal(result[~inpainted], image[~inpainted])
    if inpainted.any():
        assert (result != image).any(2)[inpainted].mean() > 0.9


@pytest.mark.parametrize("mode", ["fill", "replace"])
def test_an_empty_mask_changes_nothing(paint, mode):
    image = noise(96, 130)
    assert np.array_equal(paint(image, np.zeros((96, 130), np.bool_), "a screw", 7, mode), image)


@pytest.mark.parametrize("mode", ["fill", "replace"])
def test_seed_and_prompt_decide_every_byte(paint, folder, mode):
    image, mask = noise(96, 130), MASKS["in the middle"]
    first = paint(image, mask, "a red screw", 7, mode)
    again = DiffusionFiller(folder, QUICK, FP32)(image, mask, "a red screw", 7, mode)
    assert np.array_equal(first, paint(image, mask, "a red screw", 7, mode))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, paint(image, mask, "a red screw", 8, mode))
    assert not np.array_equal(first, paint(image, mask, "a blue nut", 7, mode))


@pytest.mark.parametrize("mode", ["fill", "replace"])
def test_the_mask_reaches_the_pipeline(folder, monkeypatch, mode):
    """In place of the network, a function that returns its mask: white inside, black outside."""
    paint = DiffusionFiller(folder, QUICK, FP32)
    arguments = {}

    def mask_as_image(**call):
        arguments.update(call)
        white = np.asarray(call["mask_image"], np.float32)[..., None].repeat(3, 2) / 255
        return SimpleNamespace(images=[white])

    monkeypatch.setattr(paint, "_pipeline", mask_as_image)
    image = np.full((128, 128, 3), 90, np.uint8)
    mask = rectangle(128, 128, 70, 60, 110, 100)
    result = paint(image, mask, "a red screw", 7, mode)
    inpainted = mask if mode == "fill" else ~mask
    # All but the border, which the resizing blurs.
    assert (result[inpainted] > 200).mean() > 0.95
    assert (result[~inpainted] == 90).all()
    assert arguments["prompt"] == "a red screw"
    assert arguments["image"].size == arguments["mask_image"].size == (SIDE, SIDE)
    assert arguments["generator"].device == torch.device("cpu")
    assert arguments["generator"].initial_seed() == 7


def test_threads_share_the_pipeline_safely(paint):
    image, mask = noise(96, 130), MASKS["in the middle"]
    expected = [paint(image, mask, "a screw", seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: paint(image, mask, "a screw", seed), range(4)))
    assert all(map(np.array_equal, found, expected))


def test_settings_reach_the_pipeline(folder, paint):
    image, mask = noise(96, 130), MASKS["in the middle"]
    usual = paint(image, mask, "a screw", 7)
    for change in ({"steps": 3}, {"guidance": 1.0}, {"strength": 0.5}, {"negative_prompt": "rust"}):
        other = DiffusionFiller(folder, QUICK.model_copy(update=change), FP32)
        assert not np.array_equal(other(image, mask, "a screw", 7), usual), change
    assert DiffusionFiller(folder, QUICK.model_copy(update={"size": 96}), FP32).side == 96


def test_the_vae_decodes_in_float32(folder):
    """bfloat16 cannot represent 256 grey levels; images decoded in it would have about half."""
    paint = DiffusionFiller(folder, QUICK, Compute(torch.device("cpu"), torch.bfloat16))
    image, mask = noise(64, 64), rectangle(64, 64, 0, 0, 64, 64)
    latents = []
    decode = paint._pipeline.vae.decode

    def watched(latent, *args, **kwargs):
        answer = decode(latent, *args, **kwargs)
        latents.append((latent.dtype, answer[0].dtype))
        return answer

    paint._pipeline.vae.decode = watched
    first = paint(image, mask, "a screw", 7)
    assert latents == [(torch.bfloat16, torch.float32)]
    assert np.array_equal(paint(image, mask, "a screw", 7), first)


def test_nothing_is_printed(folder, capfd):
    DiffusionFiller(folder, QUICK, FP32)(noise(64, 64), rectangle(64, 64, 5, 5, 20, 20), "nut", 1)
    assert capfd.readouterr() == ("", "")


def test_memory_that_is_short_twice_is_an_error(folder, monkeypatch):
    paint = DiffusionFiller(folder, QUICK, FP32)

    def short(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(paint, "_pipeline", short)
    with pytest.raises(DeviceError, match="tiny-inpainting inpainted a square of 64 px"):
        paint(noise(64, 64), rectangle(64, 64, 5, 5, 20, 20), "nut", 1)


def settings_of(folder: Path) -> ModelSettings:
    return ModelSettings.model_validate(
        {"fill": {"backend": "diffusers", "weights": str(folder), "steps": 2}}
    )


def test_the_lineage_has_the_digest_of_the_folder(folder, copied):
    files = models.resolve(settings_of(folder))
    assert files.digests()["fill/diffusers"] == weights.sha256(folder)
    assert models.resolve(settings_of(copied)).digests() == files.digests()
    with (copied / "unet/diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    assert models.resolve(settings_of(copied)).digests() != files.digests()
    loaded = models.load(settings_of(folder), ProposalSettings(), files)
    image, mask = noise(96, 130), MASKS["in the middle"]
    assert loaded.fill is not None
    result = loaded.fill(image, mask, "a screw", 7, "fill")
    assert np.array_equal(result[~mask], image[~mask])


def test_settings_of_an_absent_filler_do_not_count():
    files = models.resolve(ModelSettings())
    assert files.fill == ("none", None)
    assert {name.partition("/")[0] for name in files.digests()} == {
        "foreground", "proposals", "inpaint", "features"
    }  # fmt: skip
    assert "fill" not in ModelSettings().content()
    assert "fill" in settings_of(Path("somewhere")).content()
    assert "somewhere" not in json.dumps(settings_of(Path("somewhere")).content())


def test_a_missing_folder_is_an_error_with_advice(tmp_path, monkeypatch):
    monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(weights.platformdirs, "user_cache_dir", lambda _: str(tmp_path / "user"))
    with pytest.raises(WeightsError, match=r"OpenRAIL.*put a diffusers folder of yours"):
        models.resolve(ModelSettings.model_validate({"fill": {"backend": "diffusers"}}))


def test_pickles_are_rejected_before_anything_is_read(copied):
    tensors = copied / "unet/diffusion_pytorch_model.safetensors"
    tensors.rename(tensors.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(WeightsError, match=r"diffusion_pytorch_model\.bin is rejected: a pickle"):
        models.resolve(settings_of(copied))


def test_a_pickle_beside_safetensors_is_ignored(copied, folder):
    (copied / "unet/diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert weights.sha256(copied) == weights.sha256(folder)
    DiffusionFiller(copied, QUICK, FP32)


def test_a_folder_with_only_fp16_files_is_loaded(copied, folder):
    for part in ("unet", "vae", "text_encoder"):
        (tensors,) = (copied / part).glob("*.safetensors")
        tensors.rename(tensors.with_name(tensors.name.replace(".safetensors", ".fp16.safetensors")))
    assert check_folder(copied).variant == "fp16"
    assert check_folder(folder).variant is None
    DiffusionFiller(copied, QUICK, FP32)


def change_index(folder: Path, **changes: object) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unet": ["my_unet", "MyUNet"]}, "any other could run code"),
        ({"../unet": ["diffusers", "UNet2DConditionModel"]}, "any other could run code"),
        (
            {"text_encoder_2": ["transformers", "CLIPTextModel"]},
            "the folder is missing; copy it as well",
        ),
    ],
    ids=["a custom class", "a component outside", "a missing component"],
)
def test_an_index_with_unknown_components_is_rejected(copied, changes, said):
    change_index(copied, **changes)
    with pytest.raises(WeightsError, match=said):
        check_folder(copied)


def test_a_pipeline_that_cannot_inpaint_is_an_error(copied):
    change_index(copied, _class_name="DDPMPipeline")
    with pytest.raises(WeightsError, match=r"DDPMPipeline.*cannot be loaded for inpainting"):
        DiffusionFiller(copied, QUICK, FP32)


def test_an_index_of_another_form_is_an_error(copied):
    (copied / "model_index.json").write_text("[]")
    with pytest.raises(WeightsError, match="expected an object with _class_name"):
        check_folder(copied)


def test_a_folder_without_an_index_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match=r"found no model_index\.json"):
        models.resolve(settings_of(tmp_path))


def test_a_damaged_weights_file_is_an_error(copied):
    (copied / "vae/diffusion_pytorch_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="cannot be loaded for inpainting"):
        DiffusionFiller(copied, QUICK, FP32)


def test_the_safety_checker_is_not_loaded(copied, folder, paint):
    change_index(copied, safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    image, mask = noise(96, 130), MASKS["in the middle"]
    result = DiffusionFiller(copied, QUICK, FP32)(image, mask, "a screw", 7)
    assert np.array_equal(result, paint(image, mask, "a screw", 7))


CARD = "---\nlicense: other\nlicense_name: flux-1-dev-non-commercial-license\n---\n# A model\n"


def test_the_licence_is_read_from_the_folders_card(copied):
    assert stated_licence(copied) == ""
    (copied / "README.md").write_text(CARD)
    assert stated_licence(copied) == "flux-1-dev-non-commercial-license"
    models.resolve(settings_of(copied), allow_noncommercial=True)
    with pytest.raises(WeightsError, match="flux-1-dev-non-commercial-license"):
        models.resolve(settings_of(copied), allow_noncommercial=False)


@pytest.mark.parametrize(
    ("licence", "forbidden"),
    [
        ("openrail++", False), ("creativeml-openrail-m", False), ("apache-2.0", False), ("", False),
        ("cc-by-nc-4.0", True), ("stabilityai-nc-research-community", True),
        ("sdxl-turbo-non-commercial", True),
    ],
)  # fmt: skip
def test_which_licences_forbid_commercial_use(licence, forbidden):
    assert forbids_commerce(licence) is forbidden
