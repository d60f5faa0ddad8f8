"""*Fill* and *replace* with a diffusers inpainting pipeline from a local folder.

    filler = DiffusionFiller(folder, settings.fill, compute)
    image_HW3 = filler(image_HW3, mask_HW, "a red screw", seed=7, mode="fill")

Any pipeline that `AutoPipelineForInpainting` knows (Stable Diffusion 1.5, 2, XL, 3, Flux, ...). It
sees one square of its native size (`square_crop.py`) and regenerates all of it, so its output is
pasted back inside the mask only. Noise is drawn on the CPU, so a seed gives the same image on every
device, up to rounding.
"""

from pipeline import environment as _environment  # noqa: F401  isort: skip  first: no telemetry

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.errors import WeightsError
from pipeline.models.device import Compute
from pipeline.models.inpaint.base import FillMode
from pipeline.models.inpaint.diffusers_folder import DiffusionFolder, check_folder
from pipeline.models.inpaint.square_crop import SquareCrop, fill_crop, replace_crop
from pipeline.models.out_of_memory import retry_once
from pipeline.models.settings import FillBackend
from pipeline.records import bounding_box


class DiffusionFiller:
    """A resident pipeline, called with an image, a mask, a prompt and a seed.

    Threads take turns, because the scheduler keeps the state of the denoising steps.
    """

    def __init__(self, folder: Path, settings: FillBackend, compute: Compute) -> None:
        self._folder, self._settings, self._compute = folder, settings, compute
        self._pipeline = _load_pipeline(check_folder(folder), compute)
        self.side = settings.size or native_side(self._pipeline, folder)
        self._turn = threading.Lock()

    def __call__(
        self,
        image_HW3: np.ndarray,
        mask_HW: np.ndarray,
        prompt: str,
        seed: int,
        mode: FillMode = "fill",
    ) -> np.ndarray:
        """Inpaint inside the mask (`fill`) or everywhere outside of it (`replace`).

        RGB uint8 in and out. The image comes back unchanged when the mask is empty, or when
        `replace` would keep the whole image.
        """
        hole_HW = mask_HW if mode == "fill" else ~mask_HW
        if not mask_HW.any() or not hole_HW.any():
            return image_HW3.copy()
        size_HW = (image_HW3.shape[0], image_HW3.shape[1])
        if mode == "fill":
            crop = fill_crop(bounding_box(mask_HW), size_HW, self.side)
        else:
            crop = replace_crop(size_HW, self.side)
        return self._inpaint(crop, image_HW3, hole_HW, prompt, seed)

    def _inpaint(
        self, crop: SquareCrop, image_HW3: np.ndarray, hole_HW: np.ndarray, prompt: str, seed: int
    ) -> np.ndarray:
        square_SS3, hole_SS = crop.cut(image_HW3, hole_HW)
        with self._turn:
            inpainted_SS3 = retry_once(
                lambda: self._run(square_SS3, hole_SS, prompt, seed),
                f"{self._folder.name} inpainted a square of {self.side} px",
            )
        return crop.paste_back(inpainted_SS3, image_HW3, hole_HW)

    @torch.inference_mode()
    def _run(
        self, square_SS3: np.ndarray, hole_SS: np.ndarray, prompt: str, seed: int
    ) -> np.ndarray:
        settings = self._settings
        # Passed on only when set, because some pipelines have no such argument.
        negative = settings.negative_prompt
        with self._compute.autocast():
            result = self._pipeline(
                prompt=prompt,
                image=Image.fromarray(square_SS3),
                mask_image=Image.fromarray(hole_SS.astype(np.uint8) * 255),
                height=self.side,
                width=self.side,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                strength=settings.strength,
                # On the CPU: a CUDA generator gives other numbers for the same seed.
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="np",
                **({"negative_prompt": negative} if negative else {}),
            )
        # Float in 0-1; diffusers' own conversion to 8 bits is replaced by explicit rounding.
        inpainted_SS3 = np.asarray(result.images[0], np.float32)
        return np.clip(np.rint(inpainted_SS3 * 255), 0, 255).astype(np.uint8)


def native_side(pipeline: Any, folder: Path) -> int:
    """Side in px of the training images: the model's latent size times the VAE's scale factor.

    WeightsError when the pipeline does not state them.
    """
    # U-Nets and transformers state the latent size in their config, some pipelines themselves.
    core = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    latent = getattr(getattr(core, "config", None), "sample_size", None)
    latent = latent or getattr(pipeline, "default_sample_size", None)
    if isinstance(latent, list | tuple):
        latent = min(latent)
    factor = getattr(pipeline, "vae_scale_factor", None)
    if not (isinstance(latent, int) and isinstance(factor, int)):
        raise WeightsError(
            f"{folder} does not state the image size it was trained on; set models.fill.size, "
            "such as 512"
        )
    return latent * factor


def _load_pipeline(folder: DiffusionFolder, compute: Compute) -> Any:
    """The pipeline on its device, without output, network access and skipped components."""
    # huggingface_hub reads this variable when it is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from diffusers import AutoPipelineForInpainting
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    # None in place of a component keeps diffusers from loading it.
    absent: dict[str, Any] = dict.fromkeys(folder.skipped)
    if "safety_checker" in absent:
        absent["requires_safety_checker"] = False
    verbosity = diffusers_logging.get_verbosity()
    # Diffusers would warn about the missing safety checker.
    diffusers_logging.set_verbosity_error()
    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(
            str(folder.path),
            local_files_only=True,
            use_safetensors=True,
            dtype={"default": compute.dtype, "vae": torch.float32},
            variant=folder.variant,
            **absent,
        )
    # Everything that diffusers raises for damaged, foreign or incomplete folders.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{folder.path} ({folder.pipeline}) cannot be loaded for inpainting: "
            f"{' '.join(str(error).split())[:300]}; expected a diffusers pipeline that "
            "AutoPipelineForInpainting knows"
        ) from error
    finally:
        diffusers_logging.set_verbosity(verbosity)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(compute.device)
    if compute.reduced:
        _decode_in_float32(pipeline, compute)
    return pipeline


def _decode_in_float32(pipeline: Any, compute: Compute) -> None:
    """Run the VAE decoder in float32: bfloat16 has 8 significant bits, too few for 256 levels."""
    decode = pipeline.vae.decode

    def decode_in_float32(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(compute.device.type, enabled=False):
            return decode(latents.float(), *args, **kwargs)

    pipeline.vae.decode = decode_in_float32
