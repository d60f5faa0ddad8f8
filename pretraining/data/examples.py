"""What the bundled models learn from: endless labelled pictures, each from one seed.

Half are rendered product scenes, half clutter; both come with every object's mask, the salient
foreground, and the very same picture with one object absent. Rendering costs as much as a training
step on a small machine, so `render_ahead` writes a set once and `open_ahead` maps it.
Shapes: N examples; H, W picture (S, S when square); 3 colour (RGB, uint8).
"""

import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from pipeline.errors import UserError
from pipeline.utils.files import write_whole
from pretraining.data import clutter

SCENES_SHARE = 0.5
CENTRED_SHARE = 0.35
ARRAYS = ("images", "instances", "foreground", "without", "removed")
HELD_OUT_SEEDS = 70_000_000
"""Examples of seeds from here on, up to a million, are for measuring only."""
SETS: dict[str, tuple[int, int, float]] = {
    "products": (12_000, 10_000_000, 1.0),
    "clutter": (5_000, 200_000_000, 0.0),
}
"""What the networks learn from: so many examples, from which seed, share of products."""
CHUNK = 50
"""Examples between two notes of progress: what an interruption can cost at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One picture and all that is known about it; `removed` is 0 when nothing was taken away."""

    image_HW3: np.ndarray  # uint8
    instances_HW: np.ndarray  # uint8, 0 none, 1..K the visible region of each object
    foreground_HW: np.ndarray  # bool, the whole product, or all objects with their carrier
    without_HW3: np.ndarray  # uint8, same light and noise, object `removed` absent
    removed: int


def example(
    seed: int, size: int = 256, scenes: float = SCENES_SHARE, centred: float = CENTRED_SHARE
) -> Example:
    """The example of this seed: a rendered product with chance `scenes`, or clutter.

    `centred` is the share of clutter that shows one large part in the middle.
    """
    rng = np.random.default_rng([seed, size])
    return _product(seed, size, rng) if rng.random() < scenes else _clutter(rng, size, centred)


def held_out(count: int, scenes: float = 1.0, size: int = 256) -> Iterator[Example]:
    """`count` examples that nothing was trained on; products only, unless `scenes` says less."""
    for seed in range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + count):
        yield example(seed, size, scenes)


def _clutter(rng: np.random.Generator, size: int, centred: float) -> Example:
    built, faults = clutter.scene(rng, size, centred), int(rng.integers(1 << 31))
    image_HW3, owner_HW = clutter.compose(built)
    objects_HW = np.maximum(owner_HW - built.carriers, 0)
    seen = np.unique(objects_HW[objects_HW > 0])
    instances_HW = np.zeros((size, size), np.uint8)
    instances_HW[objects_HW > 0] = 1 + np.searchsorted(seen, objects_HW[objects_HW > 0])
    removed = int(rng.integers(1, len(seen) + 1)) if len(seen) else 0
    image_HW3 = clutter.camera(faults, image_HW3)
    without_HW3 = image_HW3
    if removed:
        layer = int(seen[removed - 1]) - 1 + built.carriers
        without_HW3 = clutter.camera(faults, clutter.compose(built, skip=layer)[0])
    return Example(image_HW3, instances_HW, owner_HW > 0, without_HW3, removed)


def _product(seed: int, size: int, rng: np.random.Generator) -> Example:
    from scenes import render  # here, so that clutter alone needs no renderer

    product = render.PRODUCTS[int(rng.integers(len(render.PRODUCTS)))]
    backdrop = "any" if rng.random() < 0.4 else None
    scene = render.render(product, seed, size=size, backdrop=backdrop)
    instances_HW, visible = np.zeros((size, size), np.uint8), []
    for part, instance in enumerate(scene.instances):
        if instance.mask_HW.any():
            visible.append(part)
            instances_HW[instance.mask_HW] = len(visible)
    without_HW3, removed = scene.image_HW3, 0
    if visible:
        removed = int(rng.integers(len(visible))) + 1
        part = visible[removed - 1]
        without_HW3 = render.render(
            product, seed, size=size, without=part, backdrop=backdrop
        ).image_HW3
    return Example(scene.image_HW3, instances_HW, scene.product_HW, without_HW3, removed)


def render_ahead(
    folder: Path,
    count: int,
    first_seed: int,
    size: int = 256,
    workers: int = 1,
    scenes: float = SCENES_SHARE,
    centred: float = CENTRED_SHARE,
) -> Path:
    """Write `count` examples as uint8 .npy files below `folder`; call again to go on or to grow.

    `done.json` says how many are whole; rows beyond are not to be read.
    """
    if first_seed < HELD_OUT_SEEDS + 1_000_000 and first_seed + count > HELD_OUT_SEEDS:
        raise UserError(
            f"seeds {first_seed} to {first_seed + count} reach into {HELD_OUT_SEEDS}, which is for "
            "measuring only; name another first seed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "images": (count, size, size, 3),
        "instances": (count, size, size),
        "foreground": (count, size, size),
        "without": (count, size, size, 3),
        "removed": (count,),
    }
    plan = {"count": count, "first_seed": first_seed, "size": size, "scenes": scenes}
    plan["centred"] = centred
    note, done = folder / "done.json", 0
    if note.exists():
        stored = json.loads(note.read_text())
        if {key: stored[key] for key in plan} != plan:
            raise UserError(f"{folder} holds {stored}, asked for {plan}; name another folder")
        done = stored["done"]
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "r+" if note.exists() else "w+", np.uint8, shape
        )
        for name, shape in shapes.items()
    }
    write_whole(note, json.dumps(plan | {"done": done}).encode())
    starts = range(done, count, CHUNK)
    jobs = [(first_seed + at, min(CHUNK, count - at), size, scenes, centred) for at in starts]
    pool = ProcessPoolExecutor(workers) if workers > 1 else None
    results = pool.map(_render_chunk, jobs) if pool else map(_render_chunk, jobs)
    for at, chunk in zip(starts, tqdm(results, total=len(jobs), unit="chunk"), strict=True):
        for name, array in arrays.items():
            array[at : at + len(chunk[name])] = chunk[name]
            array.flush()
        write_whole(note, json.dumps(plan | {"done": min(at + CHUNK, count)}).encode())
    if pool:
        pool.shutdown()
    return folder


def render_sets(folder: Path) -> list[Path]:
    """Render every set of SETS below `folder` that is not whole yet: ten minutes on one core."""
    return [
        render_ahead(folder / name, count, seed, scenes=scenes)
        for name, (count, seed, scenes) in SETS.items()
    ]


def open_ahead(folder: Path | str) -> dict[str, np.ndarray]:
    """Read-only maps of the examples that are whole, by the names in ARRAYS."""
    folder = Path(folder)
    if not (folder / "done.json").is_file():
        raise UserError(f"{folder} holds no examples: make them with `render_ahead` first")
    done = json.loads((folder / "done.json").read_text())["done"]
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r")[:done] for name in ARRAYS}


def _render_chunk(job: tuple[int, int, int, float, float]) -> dict[str, np.ndarray]:
    first, count, size, scenes, centred = job
    cv2.setNumThreads(1)
    made = [example(first + index, size, scenes, centred) for index in range(count)]
    return {
        "images": np.stack([one.image_HW3 for one in made]),
        "instances": np.stack([one.instances_HW for one in made]),
        "foreground": np.stack([one.foreground_HW for one in made]).astype(np.uint8),
        "without": np.stack([one.without_HW3 for one in made]),
        "removed": np.array([one.removed for one in made], np.uint8),
    }
