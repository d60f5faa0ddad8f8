"""A whole Stable-Diffusion inpainting pipeline with random weights, saved as a diffusers folder.

Real classes and a real tokenizer with small dimensions: 5 MB, a tenth of a second per step. The VAE
keeps its four blocks (factor 8), because with fewer the UNet's inputs, and the time, become large.
"""

import json
from pathlib import Path

import torch

# Native size of the tiny pipeline in px: `sample_size` 8 times the VAE's factor 8.
SIDE = 64


def save_tiny_pipeline(folder: Path, safe: bool = True) -> Path:
    """Build it from seed 0 and save it; `safe=False` writes pickles, as in old folders."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=SIDE // 8, in_channels=9, out_channels=4, layers_per_block=1,
        block_out_channels=(16, 32), norm_num_groups=8, cross_attention_dim=16,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=514, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=77, bos_token_id=512, eos_token_id=513,
        pad_token_id=513,
    )  # fmt: skip
    pipeline = StableDiffusionInpaintPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), unet=unet,
        tokenizer=CLIPTokenizer(*_tokenizer_files(folder), model_max_length=77),
        scheduler=DDIMScheduler(steps_offset=1), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder, safe_serialization=safe)
    return folder


def _tokenizer_files(folder: Path) -> tuple[str, str]:
    """CLIP's byte alphabet, each letter inside a word and at its end, without any merges."""
    place = folder.with_name(folder.name + "-words")
    place.mkdir(parents=True, exist_ok=True)
    # The bytes that CLIP shows as themselves; the others are shifted to 256 and above.
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in visible]
    letters += [chr(256 + index) for index in range(256 - len(visible))]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (place / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (place / "merges.txt").write_text("#version: 0.2\n")
    return str(place / "vocab.json"), str(place / "merges.txt")
