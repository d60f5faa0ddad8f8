"""The whole pipeline: time outside the models, many edits of one image, the classical profile.

Time inside the models is that of U²-Net's session, SAM's encoder and decoder, the inpainting
network and the gate's teacher with its patch bank. The rest is reading, filtering, compositing,
judging and writing.
"""

import gc
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.generation.rows import Claim, left_out, seconds_of, watched
from flows.jobs.generate import generate
from pipeline.config.manifest import manifest_for_source
from pipeline.config.manifest import resolve as settled
from pipeline.config.schema import CategorySettings
from pipeline.edits.context import ImageContext
from pipeline.gate import patch_bank as patches
from pipeline.generation.analysis import analyse_batch, analysis_of
from pipeline.generation.calibrate import calibrate, normal_model_of
from pipeline.generation.pack import pack
from pipeline.generation.plan import RunPlan, plan
from pipeline.generation.sampler import generate_batch, generate_samples
from pipeline.models import backbone as trunk
from pipeline.models import build as models
from pipeline.models import device as devices
from pipeline.models import foreground, proposals
from pipeline.models.inpaint import lama
from pipeline.models.settings import InpaintBackend
from scenes.loco import write_loco

# Edits of one image in the row about many edits, and samples per image of the classical one.
MANY = 20
# Methods whose time counts as time inside the models.
MODELS = (
    (foreground._PeakRecorder, "run"),
    (proposals.SamProposals, "_embed"),
    (proposals.SamProposals, "_decode_prompts"),
    (lama.TorchScriptLama, "_fill"),
    (patches, "describe"),
    (patches, "nearest_distances"),
    (trunk.Trunk, "forward"),
)


def rows(images: int, peers: Path) -> Iterator[Claim]:
    """All rows, on `images` rendered images of bags and of trays."""
    with tempfile.TemporaryDirectory() as folder:
        for product in ("bag", "tray"):
            root = write_loco(Path(folder), product, train=images, validation=1, test_good=1,
                              per_defect=0, size=256)  # fmt: skip
            # With and without audit and gallery, which are optional documents of a version.
            for extras in (False, True) if product == "bag" else (False,):
                store = Path(folder) / f"overhead-{product}-{extras}"
                yield overhead(settings_of(root, store, audit=extras, gallery=extras))
        root = Path(folder) / "bag"
        for gate in (False, True):
            yield many_edits(settings_of(root, Path(folder) / f"many-{gate}", MANY, patches=gate))
    yield from given_proposals(images, peers)


def given_proposals(images: int, peers: Path) -> Iterator[Claim]:
    """The rows of the classical profile alone, on rendered bags."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_loco(Path(folder), "bag", train=images, validation=1, test_good=1,
                          per_defect=0, size=256)  # fmt: skip
        yield from classical(root, Path(folder), peers)


def settings_of(root: Path, store: Path, per_image: int = 6, **changes: bool) -> CategorySettings:
    """Default settings of a rendered category; `patches`, `audit`, `gallery`, `telea` as given."""
    manifest = manifest_for_source("mvtec_loco", root, store=str(store))
    # Settings are immutable records: every change is a copy.
    found = settled(manifest, root.name)
    settings = found.model_copy(
        update={"edits": found.edits.model_copy(update={"per_image": per_image})}
    )
    if changes.pop("telea", False):
        telea = {"inpaint": InpaintBackend(backend="telea")}
        settings = settings.model_copy(update={"models": settings.models.model_copy(update=telea)})
    if "patches" in changes:
        gate = settings.gate.model_copy(update={"patches": changes.pop("patches")})
        settings = settings.model_copy(update={"gate": gate})
    return settings.model_copy(update={"output": settings.output.model_copy(update=changes)})


def overhead(settings: CategorySettings) -> Claim:
    """`generate` of a category in one thread: time outside the models, relative to theirs."""
    warm = plan(settings)
    # Load the models beforehand, so that loading does not count.
    models.load(settings.models, settings.proposals, warm.files)
    with watched(*MODELS) as spent:
        # Whatever is not spent in a watched method is the pipeline's own time.
        total = seconds_of(lambda: generate(settings, workers=1))
    rest = total - spent[0]
    extras = settings.output.audit
    what = f"all but the models, `generate` of {len(warm.images)} {settings.name} images"
    what += ", audit and gallery too" if extras else ", no audit, no gallery"
    aim = None if extras else 0.25
    return Claim(what, f"{rest:.2f} s", "U²-Net, SAM, LaMa, teacher with its bank",
                 f"{spent[0]:.2f} s", rest / spent[0], at_most=aim)  # fmt: skip


def many_edits(settings: CategorySettings) -> Claim:
    """Twenty edits of one image against the time of its parts, each measured by itself."""
    run = plan(settings, 1)
    image = run.images[0]
    loaded = models.load(settings.models, settings.proposals, run.files)
    # Calibrates the gate and warms up the models.
    generate_batch(run, [image])
    pixels_HW3, analysis = analysis_of(run, image)
    found = analysis.proposals
    # As many holes as edits, of the proposals in turn.
    holes = [found.masks_NHW[index % len(found)] for index in range(MANY)]
    # The same work without the pipeline: one foreground pass, one proposal pass, one inpainting per
    # edit.
    parts = [
        seconds_of(lambda: loaded.foreground(pixels_HW3)),
        seconds_of(lambda: loaded.proposals.with_parts(pixels_HW3, analysis.foreground)),
        seconds_of(lambda: [loaded.inpaint(pixels_HW3, hole_HW) for hole_HW in holes]),
    ]

    def edit_all() -> None:
        again = loaded.proposals(pixels_HW3, loaded.foreground(pixels_HW3))
        context = ImageContext(pixels_HW3, again, loaded.inpaint)
        generate_samples(settings, image.digest, context, normal_model_of(run))

    whole, gated = seconds_of(edit_all), settings.uses_patches
    # The gate's network is not among the parts, so with it there is no claim.
    aim = None if gated else 1.10
    what = f"{MANY} edits of one image, {'with' if gated else 'without'} the gate's network"
    return Claim(what, f"{whole:.2f} s", f"one foreground, one proposal pass, {MANY} inpaints",
                 f"{sum(parts):.2f} s", whole / sum(parts), at_most=aim)  # fmt: skip


def classical(root: Path, folder: Path, peers: Path) -> Iterator[Claim]:
    """The classical profile: Telea, no network in the gate, no audit or gallery; with writing."""
    # The baseline of another kind of synthetic anomaly, where it is installed.
    perlin = _perlin(peers)
    # Many edits per image share analysis and packing, so they are faster per sample.
    for per_image, aims in ((MANY, (140.0, 2.0)), (6, (110.0, 2.0))):
        settings = settings_of(root, folder / f"telea-{per_image}", per_image, telea=True,
                               patches=False, audit=False, gallery=False)  # fmt: skip
        run = plan(settings)
        # Foreground and proposals are computed before the clock starts.
        analyse_batch(run, run.images)
        calibrate(run)
        rate, accepted = _samples_per_second(run)
        what = (
            f"{accepted} samples of 256 px, given proposals, Telea, {per_image} an image, written"
        )
        yield Claim(what, f"{rate:.0f}/s", "one second of a core", "1 s", rate, aims[0])
        if perlin is None:
            left_out(f"anomalib's Perlin generator, because there is no {peers}/bin/python; "
                     "`make test-peers` builds it")  # fmt: skip
        else:
            yield Claim(what, f"{rate:.0f}/s", "anomalib 2.7, PerlinAnomalyGenerator",
                        f"{1 / perlin:.0f}/s", rate * perlin, aims[1])  # fmt: skip


def _samples_per_second(run: RunPlan) -> tuple[float, int]:
    accepted = [0]
    # As the command does once its models are loaded.
    gc.freeze()

    def generate_and_write() -> None:
        generate_batch(run, run.images)
        accepted[0] = pack(run, []).index["counts"]["accepted"]

    seconds = seconds_of(generate_and_write)
    return accepted[0] / seconds, accepted[0]


def _perlin(peers: Path) -> float | None:
    """anomalib's seconds per image, or None where it is not installed."""
    python = peers / "bin" / "python"
    if not python.is_file():
        return None
    # The peer's Python has no installation of this project: it finds it by PYTHONPATH.
    environment = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-m", "benchmarks.perlin_peer"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    devices.one_thread()
    # The peer prints its median on the last line.
    return float(done.stdout.split()[-1])
