"""Imports torchvision without PyTorch's compiler; import this before segment-anything or timm.

Both import torchvision, which asks the compiler one question when it pools regions of interest.
Nothing here does, and the compiler takes 160 MB and two seconds.
"""

from pipeline.utils.postponed import postponed

with postponed({"torch._dynamo.utils": "is_compile_supported"}):
    import torchvision  # noqa: F401
