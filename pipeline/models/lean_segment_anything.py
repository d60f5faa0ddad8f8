"""Imports segment-anything without torchvision; import this before anything of segment-anything.

Its predictor resizes by torchvision, and its mask generator compares boxes by it. Nothing here uses
either of them, and torchvision takes a quarter of a second and 11 MB; as it asks for PyTorch's
compiler in turn, two seconds and 160 MB.
"""

from pipeline.utils.postponed import postponed

with postponed({
    "torchvision.transforms.functional": ("resize", "to_pil_image"),
    "torchvision.ops.boxes": ("batched_nms", "box_area"),
}):  # fmt: skip
    import segment_anything  # noqa: F401
