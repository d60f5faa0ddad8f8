"""Retinal OCT (Kermany et al., 2018).

    {train,val,test}/{NORMAL,CNV,DME,DRUSEN}/CLASS-PATIENT-NUMBER.jpeg, no masks

Normals come from NORMAL. The images of a patient are in one split only.
"""

import re
from pathlib import Path

from pipeline.records import GOOD, SourceEntry, Split
from pipeline.sources.layouts.base import FolderReader, Layout

# Class folders and split folders of the dataset.
_NORMAL, _DISEASES = "NORMAL", ("CNV", "DME", "DRUSEN")
_SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}
# The class must be the name of the folder; group 2 is the patient.
_NAME = re.compile(r"(?:train|val|test)/(NORMAL|CNV|DME|DRUSEN)/\1-(\w+)-\d+\.\w+", re.I)


def patient_of(entry: SourceEntry) -> str | None:
    """The patient, whose images must stay in one split; None for a file of another layout."""
    match = _NAME.fullmatch(entry.name)
    return f"patient {match[2]}" if match else None


def _read_retinal_oct(reader: FolderReader) -> None:
    """Read the images; a patient in several splits stays in test, else in val, else in train."""
    reader.expect(f"train/{_NORMAL}")
    # Diseased eyes are read for the test split only: training and validation hold normals.
    found: list[tuple[Path, Split, str]] = []
    for folder, split in _SPLITS.items():
        classes = (_NORMAL, *_DISEASES) if split == "test" else (_NORMAL,)
        for label in classes:
            for path in reader.images(reader.root / folder / label):
                if _NAME.fullmatch(path.relative_to(reader.root).as_posix()):
                    found.append((path, split, GOOD if label == _NORMAL else label))
                else:
                    reader.problem(path, f"expected the name {label}-PATIENT-NUMBER.jpeg")
    for path, split, defect in found:
        reader.add(path, split, defect)
    # Leave out normals whose patient is in a later split as well, as the published splits overlap.
    patients: dict[Split, set[str]] = {split: set() for split in _SPLITS.values()}
    for entry in reader.entries:
        patients[entry.split].add(str(patient_of(entry)))
    kept = []
    for entry in reader.entries:
        taken: set[str] = set()
        if entry.split != "test":
            taken |= patients["test"]
        if entry.split == "train":
            taken |= patients["validation"]
        if str(patient_of(entry)) not in taken:
            kept.append(entry)
    left_out = len(reader.entries) - len(kept)
    if left_out:
        reader.notes.append(
            f"{left_out} normals left out: their patients are in test or val as well"
        )
    reader.entries = kept


def _matches(root: Path) -> bool:
    # Other data sets have a folder train/NORMAL, too.
    return (root / "train" / _NORMAL).is_dir() and any(
        (root / split / disease).is_dir() for split in ("train", "test") for disease in _DISEASES
    )


RETINAL_OCT = Layout(
    name="retinal_oct",
    files="`{train,val,test}/{NORMAL,CNV,DME,DRUSEN}/CLASS-PATIENT-NUMBER.jpeg`; normals are "
    "NORMAL; a patient is on one side only",
    read=_read_retinal_oct,
    matches=_matches,
    licence="CC BY 4.0",
    credit="Kermany et al., Large Dataset of Labeled Optical Coherence Tomography (OCT) Images, "
    "https://doi.org/10.17632/rscbjbr9sj.3",
    one_category=True,
    group=patient_of,
)
