"""The scores that a comparison rests on: normals and synthetic samples the fit has not seen.

`held_out_scores` is the only place that knows where they come from: the file that a training leaves
beside its checkpoint, with every image judged by a fit without it, or else the validation split,
scored by the trained detector. Real test images are never read here.

Shapes: N held-out normals; M held-out samples, anomalies and controls.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detectors.data.batches import Feed
from detectors.data.dataset import VersionDataset
from detectors.training.calibration import scores_of
from detectors.training.checkpoint import Restored
from detectors.training.held_out import VALIDATION
from detectors.training.precision import precision_name
from detectors.training.validation import scoring_batch
from pipeline.dataset.version import Version
from pipeline.errors import UserError

# How the scores came about, for pages and JSON.
OF_VALIDATION = "the validation split, which the training did not see"
OF_FOLDS = "cross-fitting: each image scored by a fit that has not seen it"
Place = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutScores:
    """Image scores (float64, higher is more anomalous) with what is known about each image.

    `labels_M` is 1 for anomalies and 0 for controls, `kinds` are names of `KINDS`. `rules` are the
    rules of the rule book that a sample breaks, empty without a rule book. `source` says in words
    how the scores came about.
    """

    normal_ids: tuple[str, ...]
    normal_scores_N: np.ndarray
    sample_ids: tuple[str, ...]
    sample_scores_M: np.ndarray
    labels_M: np.ndarray
    kinds: tuple[str, ...]
    rules: tuple[tuple[str, ...], ...]
    source: str = OF_VALIDATION

    def __post_init__(self) -> None:
        # Columns of one table: a shifted one would blame the wrong kind.
        lengths = {len(column) for column in (
            self.sample_ids, self.sample_scores_M, self.labels_M, self.kinds, self.rules
        )}  # fmt: skip
        if len(lengths) > 1 or len(self.normal_ids) != len(self.normal_scores_N):
            raise ValueError(f"columns of different lengths: {sorted(lengths)}")

    @property
    def anomalies(self) -> int:
        """Number of samples that are anomalous."""
        return int(self.labels_M.sum())

    def only(self, normals: Sequence[str], samples: Sequence[str]) -> "HeldOutScores":
        """The same scores of these normals and samples alone, in the order given."""
        normal = {name: place for place, name in enumerate(self.normal_ids)}
        sample = {name: place for place, name in enumerate(self.sample_ids)}
        rows, places = [normal[name] for name in normals], [sample[name] for name in samples]
        return HeldOutScores(
            normal_ids=tuple(normals),
            normal_scores_N=self.normal_scores_N[rows],
            sample_ids=tuple(samples),
            sample_scores_M=self.sample_scores_M[places],
            labels_M=self.labels_M[places],
            kinds=tuple(self.kinds[place] for place in places),
            rules=tuple(self.rules[place] for place in places),
            source=self.source,
        )


def held_out_scores(restored: Restored, version: Version) -> HeldOutScores:
    """The held-out scores of a trained detector on the version that it was trained on.

    UserError when no normal or no anomalous sample is held out.
    """
    stored = restored.held_out
    source = OF_VALIDATION
    # Stored scores belong to the precision of the training.
    if stored is not None and precision_name(restored.compute) == restored.card.precision:
        normals = _by_place(stored.normal_places_N2, stored.normal_scores_N)
        samples = _by_place(stored.pair_places_M2, stored.pair_scores_M)
        if (stored.normal_folds_N != VALIDATION).any():
            source = OF_FOLDS
    else:
        normals, samples = _scored(restored, version)
    shards = version.shards
    # Stored scores lack the samples that people rejected before the training; these do not.
    rejected = set(restored.card.reviews.rejected if restored.card.reviews else ())
    samples = {
        (shard, row): score
        for (shard, row), score in samples.items()
        if not rejected or shards[shard].record(row)["id"] not in rejected
    }
    records = [shards[shard].record(row) for shard, row in samples]
    labels_M = np.array([record["label"] for record in records], np.int64)
    if not normals or not labels_M.any():
        missing = "synthetic anomaly" if normals else "normal"
        raise UserError(
            f"{version.dir} holds out no {missing} to compare detectors on: generate a version "
            "with more images or a larger splits.validation_fraction"
        )
    return HeldOutScores(
        normal_ids=tuple(shards[shard].image_record(row)["name"] for shard, row in normals),
        normal_scores_N=np.array(list(normals.values()), np.float64),
        sample_ids=tuple(record["id"] for record in records),
        sample_scores_M=np.array(list(samples.values()), np.float64),
        labels_M=labels_M,
        kinds=tuple(record["kind"] for record in records),
        # An edit that breaks several rules names them as "a+b"; a control breaks none.
        rules=tuple(tuple(filter(None, record.get("rule", "").split("+"))) for record in records),
        source=source,
    )


def shared(held: Sequence[HeldOutScores]) -> list[HeldOutScores]:
    """The scores of the images that all detectors were judged on, which are fewer where trainings
    were cross-fitted differently; UserError when there are none."""
    of_all = set.intersection(*(set(one.normal_ids) for one in held))
    samples_of_all = set.intersection(*(set(one.sample_ids) for one in held))
    normals = [name for name in held[0].normal_ids if name in of_all]
    samples = [name for name in held[0].sample_ids if name in samples_of_all]
    found = [one.only(normals, samples) for one in held]
    if not normals or not found[0].anomalies:
        raise UserError(
            "the detectors have no held-out images in common: train them with the same folds"
        )
    return found


def _scored(restored: Restored, version: Version) -> tuple[dict[Place, float], dict[Place, float]]:
    """Normals and samples of the validation split, by shard and row, with their scores."""
    device, size = restored.compute.device, restored.detector.settings.size
    normals = VersionDataset.normals(version, "validation")
    pairs = VersionDataset.pairs(version, "validation")
    table = pairs.view.table  # type: ignore[attr-defined]
    places = (
        np.array(normals.view.places, np.int64),  # type: ignore[attr-defined]
        np.stack([table.shards_N, table.rows_N], 1),
    )
    normal, sample = (
        _by_place(
            places_N2,
            scores_of(
                restored.detector,
                Feed(dataset, scoring_batch(device), size, device, numbered=False),
                restored.compute,
            )[0],
        )
        for places_N2, dataset in zip(places, (normals, pairs), strict=True)
    )
    return normal, sample


def _by_place(places_N2: np.ndarray, scores_N: np.ndarray) -> dict[Place, float]:
    """Scores by shard and row, in the order of the version, so that all detectors agree."""
    rows = zip(places_N2.tolist(), scores_N.tolist(), strict=True)
    return {(shard, row): score for (shard, row), score in sorted(rows)}
