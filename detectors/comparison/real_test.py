"""The real test split beside the synthetic numbers, from the report of an evaluation.

It is read after the recommendation was made, at the threshold that held-out normals had given.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detectors.comparison.result import RealTest
from detectors.comparison.sensitivity import Share
from pipeline.records import GOOD


def real_test(report: Mapping[str, Any], threshold: float, page: Path | None = None) -> RealTest:
    """What a detector did on the real test split; `report` is the content of report.json."""
    # The same comparison in float32 as on the held-out images.
    over = {GOOD: [0, 0], "": [0, 0]}
    for row in report["scores"]:
        counts = over[GOOD if row["type"] == GOOD else ""]
        counts[0] += int(np.float32(row["score"]) >= np.float32(threshold))
        counts[1] += 1
    interval = report["intervals"].get("image_auroc")
    return RealTest(
        auroc=report["image_auroc"],
        auroc_interval=tuple(interval) if interval else None,
        auroc_by_type={
            name: measured["image_auroc"] for name, measured in report["per_type"].items()
        },
        found=Share(*over[""]),
        false_alarms=Share(*over[GOOD]),
        report=page,
    )
