"""*Fill* and *replace* through a diffusers inpainting pipeline from a folder on this machine.

    paint = DiffusionFiller(folder, settings.fill, compute)
    image = paint(image_HW3, mask_HW, "a red screw", seed=7, mode="fill")

Any pipeline that `AutoPipelineForInpainting` knows (Stable Diffusion 1.5, 2, XL, 3, Flux, ...). It
sees one square of its native size (`frames.py`) and repaints all of that, so its answer is put back
inside the mask only. Noise is drawn by a generator on the CPU, so a seed means the same on every
device, up to rounding.
"""

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
from pipeline.models.inpaint.square_crop import SquareCrop, fill_frame, replace_frame
from pipeline.models.out_of_memory import with_second_try
from pipeline.models.settings import FillBackend
from pipeline.records import bounding_box


class DiffusionFiller:
    """A resident pipeline. Threads take turns: its scheduler counts steps while it paints."""

    def __init__(self, folder: Path, settings: FillBackend, compute: Compute) -> None:
        self._folder, self._settings, self._compute = folder, settings, compute
        self._pipeline = _loaded(check_folder(folder), compute)
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
        """Paint inside the mask (`fill`) or everywhere but there (`replace`).

        Nothing is painted, and the image comes back as it is, when the mask is empty or when
        `replace` would keep the whole image.
        """
        paint_HW = mask_HW if mode == "fill" else ~mask_HW
        if not mask_HW.any() or not paint_HW.any():
            return image_HW3.copy()
        size_HW = (image_HW3.shape[0], image_HW3.shape[1])
        if mode == "fill":
            frame = fill_frame(bounding_box(mask_HW), size_HW, self.side)
        else:
            frame = replace_frame(size_HW, self.side)
        return self._painted(frame, image_HW3, paint_HW, prompt, seed)

    def _painted(
        self, frame: SquareCrop, image_HW3: np.ndarray, paint_HW: np.ndarray, prompt: str, seed: int
    ) -> np.ndarray:
        square_SS3, hole_SS = frame.see(image_HW3, paint_HW)
        with self._turn:
            painted_SS3 = with_second_try(
                lambda: self._run(square_SS3, hole_SS, prompt, seed),
                f"{self._folder.name} painted a square of {self.side} px",
            )
        return frame.put_back(painted_SS3, image_HW3, paint_HW)

    @torch.inference_mode()
    def _run(
        self, square_SS3: np.ndarray, hole_SS: np.ndarray, prompt: str, seed: int
    ) -> np.ndarray:
        settings = self._settings
        unwanted = settings.negative_prompt  # not every pipeline takes one
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
                generator=torch.Generator("cpu").manual_seed(seed),
                output_type="np",
                **({"negative_prompt": unwanted} if unwanted else {}),
            )
        painted_SS3 = np.asarray(result.images[0], np.float32)
        return np.clip(np.rint(painted_SS3 * 255), 0, 255).astype(np.uint8)


def native_side(pipeline: Any, folder: Path) -> int:
    """The side in pixels of what the model was trained on: its latent size times the VAE's factor.

    WeightsError when the pipeline does not say.
    """
    core = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    latent = getattr(getattr(core, "config", None), "sample_size", None)
    latent = latent or getattr(pipeline, "default_sample_size", None)
    if isinstance(latent, list | tuple):
        latent = min(latent)
    factor = getattr(pipeline, "vae_scale_factor", None)
    if not (isinstance(latent, int) and isinstance(factor, int)):
        raise WeightsError(
            f"{folder} does not say which picture size it was trained on; set models.fill.size, "
            "such as 512"
        )
    return latent * factor


def _loaded(folder: DiffusionFolder, compute: Compute) -> Any:
    """The pipeline on its device, silent, with everything but the weights switched off."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported
    from diffusers import AutoPipelineForInpainting
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    absent: dict[str, Any] = dict.fromkeys(folder.skipped)
    if "safety_checker" in absent:
        absent["requires_safety_checker"] = False
    told = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # it would warn that nobody watches for indecency
    try:
        pipeline = AutoPipelineForInpainting.from_pretrained(
            str(folder.path),
            local_files_only=True,
            use_safetensors=True,
            dtype={"default": compute.dtype, "vae": torch.float32},
            variant=folder.variant,
            **absent,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{folder.path} ({folder.pipeline}) cannot be loaded for inpainting: "
            f"{' '.join(str(error).split())[:300]}; expected a diffusers pipeline that "
            "AutoPipelineForInpainting knows"
        ) from error
    finally:
        diffusers_logging.set_verbosity(told)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(compute.device)
    if compute.reduced:
        _decode_in_full(pipeline, compute)
    return pipeline


def _decode_in_full(pipeline: Any, compute: Compute) -> None:
    """Let the decoder work in float32: bfloat16 has 8 bits, too few for 256 grey levels."""
    decode = pipeline.vae.decode

    def decode_in_full(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(compute.device.type, enabled=False):
            return decode(latents.float(), *args, **kwargs)

    pipeline.vae.decode = decode_in_full
