"""Rows measured on a small rendered version: the cost of reduced precision, and data loading."""

from itertools import islice
from pathlib import Path

import torch

from benchmarks.detectors.rows import Timing
from benchmarks.detectors.steps import Call, TimedDetector, clock, in_turn
from detectors.data.batches import Stream
from detectors.data.dataset import VersionDataset
from detectors.data.source_sampler import SourceSampler, SourceSettings
from detectors.evaluation.evaluate import evaluate
from detectors.registry import configure
from detectors.training.job import TrainJob
from detectors.training.precision import resolve
from detectors.training.trainer import train
from flows.jobs.generate import generate
from pipeline.config.manifest import manifest_for_source
from pipeline.config.manifest import resolve as settled
from pipeline.dataset.version import Version, open_version
from scenes.loco import write_loco


def rendered_version(folder: Path) -> Version:
    """A small version of rendered bags with a test split of 30 good and 48 defective images."""
    root = write_loco(folder, "bag", train=12, validation=6, test_good=30, per_defect=4, size=256)
    manifest = manifest_for_source("mvtec_loco", root, store=str(folder / "store"))
    return open_version(Path(generate(settled(manifest, "bag"), workers=1).version_dir))


def precision_rows(version: Version, folder: Path) -> list[Timing]:
    """Change of image AUROC of a trained tiny checkpoint between bf16 and fp32."""
    # Trained in fp32; only the evaluation differs.
    trained = train(TrainJob(
        recipe=configure("efficientad", "tiny"), version=version.dir, out=folder / "run",
        device="cpu", precision="fp32", board=False,
    ))  # fmt: skip
    found = {
        precision: evaluate(
            trained.checkpoint, version, device="cpu", precision=precision
        ).to_json()["image_auroc"]
        for precision in ("fp32", "bf16")
    }
    gap = abs(found["bf16"] - found["fp32"])
    what = f"change of image AUROC from {found['fp32']:.4f}, tiny efficientad on rendered bags"
    # The limit as a share of 1.
    return [Timing(what, "bf16", 16, gap, "", "allowed change", 0.005, 1.0)]


def loading_rows(version: Version, quick: bool) -> list[Timing]:
    """Speed of reading and decoding pairs, against what the training of SemRec and DeSTSeg needs.

    Loading has to be twice as fast, so that it never limits the training.
    """
    rows = []
    for name in ("semrec", "destseg"):
        for profile in ("tiny",) if quick else ("tiny", "paper"):
            recipe = configure(name, profile)  # type: ignore[arg-type]
            size, batch_size = recipe.settings.size, recipe.schedule.batch_size
            if profile == "paper":
                # The papers' batches of 16 and 32 take ten seconds per step on a CPU.
                batch_size = 2
            read = reading(version, batch_size, size)
            for precision in ("fp32", "bf16") if profile == "tiny" else ("bf16",):
                changes = recipe.settings.model_dump()
                ours = TimedDetector(name, changes, resolve("cpu", precision), batch_size)
                times = in_turn({"read": read, "step": ours.step})
                rows.append(Timing(
                    f"{name} {profile}, training step, {size} px", precision, batch_size,
                    times["step"], "s", "–", times["step"],
                ))  # fmt: skip
                rows.append(Timing(
                    f"data for {name} {profile}, {size} px", precision, batch_size,
                    batch_size / times["read"], "images/s", "consumed in training",
                    batch_size / times["step"], at_least=2.0,
                ))  # fmt: skip
    return rows


def reading(version: Version, batch_size: int, size: int, batches: int = 8) -> Call:
    """A function that returns the seconds per batch of the view that SemRec trains on."""
    dataset = VersionDataset.sources(version)
    sampler = SourceSampler(dataset, SourceSettings(), batch_size)
    # An endless stream of batches on the CPU.
    stream = iter(Stream(dataset, sampler, size, torch.device("cpu")))

    def read() -> float:
        started = clock()
        for _ in islice(stream, batches):
            pass
        return (clock() - started) / batches

    return read
