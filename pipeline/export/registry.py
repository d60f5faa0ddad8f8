"""Every export format by name: command, help and docs are derived from this table."""

from collections.abc import Mapping

from pipeline.export.anomalib import ANOMALIB
from pipeline.export.base import ExportFormat
from pipeline.export.coco import COCO
from pipeline.export.fiftyone import FIFTYONE
from pipeline.export.huggingface import HUGGING_FACE
from pipeline.export.mvtec import MVTEC
from pipeline.export.webdataset import WEBDATASET

# In the order in which docs and help list them.
FORMATS: Mapping[str, ExportFormat] = {
    each.name: each
    for each in (
        MVTEC,
        ANOMALIB,
        COCO,
        HUGGING_FACE,
        WEBDATASET,
        FIFTYONE,
    )
}
# Formats with a training and a test side.
TRAIN_TEST = tuple(name for name, each in FORMATS.items() if each.train_test)
