"""Published results for MVTec AD and MVTec LOCO, shown next to our numbers; as fractions.

Paper sizes, whole training sets, ImageNet teachers: for orientation, not a reproduction. Image
AUROC: LA-EAD's paper (its own re-runs of EfficientAD-M without penalty and of PUAD; PatchCore is
compared with our simpler `nearest`). IAP and IAP@90: SemRec's paper. Its DeSTSeg column for MVTec
AD has another order of categories than its rows: see `SHIFTED`.
"""

# A note that the tables print below quoted DeSTSeg values.
SHIFTED = (
    "DeSTSeg's published IAP and IAP@90 for MVTec AD seem to belong to other categories than they "
    "are printed at; they are quoted as printed."
)

# Detector to image AUROC in per cent.
_AUROC = {
    "breakfast_box": {"nearest": 77.5, "efficientad": 83.9, "puad": 86.6, "laead": 88.4},
    "juice_bottle": {"nearest": 96.2, "efficientad": 97.7, "puad": 99.8, "laead": 99.9},
    "pushpins": {"nearest": 75.8, "efficientad": 96.3, "puad": 96.0, "laead": 98.8},
    "screw_bag": {"nearest": 74.9, "efficientad": 72.6, "puad": 81.7, "laead": 86.9},
    "splicing_connectors": {"nearest": 83.6, "efficientad": 96.9, "puad": 96.8, "laead": 97.1},
    "bottle": {"efficientad": 100.0, "puad": 100.0, "laead": 99.9},
    "hazelnut": {"efficientad": 99.9, "puad": 99.8, "laead": 99.9},
    "transistor": {"efficientad": 100.0, "puad": 99.9, "laead": 99.9},
}
# Detector to IAP and IAP@90 in per cent.
_IAP = {
    "breakfast_box": {"destseg": (66.3, 25.2), "efficientad": (63.0, 11.3), "semrec": (67.2, 19.0)},
    "juice_bottle": {"destseg": (70.0, 8.2), "efficientad": (74.6, 29.6), "semrec": (74.8, 36.0)},
    "pushpins": {"destseg": (13.9, 1.2), "efficientad": (16.1, 1.0), "semrec": (14.0, 2.0)},
    "screw_bag": {"destseg": (8.6, 7.0), "efficientad": (15.6, 4.0), "semrec": (12.0, 7.4)},
    "splicing_connectors": {
        "destseg": (24.7, 8.7), "efficientad": (38.7, 10.4), "semrec": (22.7, 7.8),
    },
    "bottle": {"destseg": (52.6, 32.7), "efficientad": (85.6, 72.0), "semrec": (91.5, 86.4)},
    "hazelnut": {"destseg": (86.4, 77.1), "efficientad": (65.4, 53.0), "semrec": (89.2, 81.8)},
    "transistor": {"destseg": (94.2, 82.9), "efficientad": (89.3, 81.3), "semrec": (81.8, 61.2)},
}  # fmt: skip


def published(detector: str, category: str, metric: str) -> float | None:
    """The published value of `image_auroc`, `iap` or `iap90`, as a fraction, or None.

    A reduced category is compared with the whole one.
    """
    category = category.removesuffix("_reduced")
    if metric == "image_auroc":
        value = _AUROC.get(category, {}).get(detector)
    elif metric in ("iap", "iap90"):
        pair = _IAP.get(category, {}).get(detector)
        # The pair is (IAP, IAP@90): a bool serves as index.
        value = pair and pair[metric == "iap90"]
    else:
        value = None
    return None if value is None else round(value / 100, 4)
