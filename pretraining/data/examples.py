"""Training examples of the bundled models: endless labelled images, each from one seed.

Half are rendered product scenes, half clutter. Both come with a mask of every object, the salient
foreground, and the same image with one object absent. Rendering costs as much as a training step on
a small machine, so `render_ahead` writes a set once and `open_ahead` maps it into memory.
Shapes: N examples; H, W image (S, S when square); 3 colour (RGB, uint8).
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
from pipeline.utils.files import write_atomic
from pretraining.data import clutter

# Share of product scenes among all examples, and of lone centred parts among clutter.
SCENES_SHARE = 0.5
CENTRED_SHARE = 0.35
# The arrays of a set; the file names are these with `.npy`.
ARRAYS = ("images", "instances", "foreground", "without", "removed")
# The million seeds from here on are for evaluation only; `render_ahead` rejects them.
HELD_OUT_SEEDS = 70_000_000
# The default sets: number of examples, first seed, share of products.
SETS: dict[str, tuple[int, int, float]] = {
    "products": (12_000, 10_000_000, 1.0),
    "clutter": (5_000, 200_000_000, 0.0),
}
# Examples per unit of work: as much as an interruption can cost at most.
CHUNK = 50


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One image with its ground truth; `removed` is 0 when no object was removed."""

    # Uint8.
    image_HW3: np.ndarray
    # Uint8, 0 none, 1..K the visible region of each object.
    instances_HW: np.ndarray
    # Bool, the whole product, or all objects with their carrier.
    foreground_HW: np.ndarray
    # Uint8, same light and noise, object `removed` absent.
    without_HW3: np.ndarray
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
    """`count` examples that no bundled model was trained on; `scenes` is the share of products."""
    for seed in range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + count):
        yield example(seed, size, scenes)


def _clutter(rng: np.random.Generator, size: int, centred: float) -> Example:
    built, faults = clutter.scene(rng, size, centred), int(rng.integers(1 << 31))
    image_HW3, owner_HW = clutter.compose(built)
    # Carriers (a tray, a plate) are foreground but no objects.
    objects_HW = np.maximum(owner_HW - built.carriers, 0)
    # Only visible objects count; they are numbered without a gap.
    seen = np.unique(objects_HW[objects_HW > 0])
    instances_HW = np.zeros((size, size), np.uint8)
    instances_HW[objects_HW > 0] = 1 + np.searchsorted(seen, objects_HW[objects_HW > 0])
    removed = int(rng.integers(1, len(seen) + 1)) if len(seen) else 0
    image_HW3 = clutter.camera(faults, image_HW3)
    without_HW3 = image_HW3
    if removed:
        # Paint the image again without that layer, through the same camera.
        layer = int(seen[removed - 1]) - 1 + built.carriers
        without_HW3 = clutter.camera(faults, clutter.compose(built, skip=layer)[0])
    return Example(image_HW3, instances_HW, owner_HW > 0, without_HW3, removed)


def _product(seed: int, size: int, rng: np.random.Generator) -> Example:
    # Imported here, because clutter alone needs no renderer.
    from scenes import render

    product = render.PRODUCTS[int(rng.integers(len(render.PRODUCTS)))]
    # Products on a background that is not their own keep the model from relying on it.
    backdrop = "any" if rng.random() < 0.4 else None
    scene = render.render(product, seed, size=size, backdrop=backdrop)
    instances_HW, visible = np.zeros((size, size), np.uint8), []
    for part, instance in enumerate(scene.instances):
        # Fully hidden parts get no number.
        if instance.mask_HW.any():
            visible.append(part)
            instances_HW[instance.mask_HW] = len(visible)
    without_HW3, removed = scene.image_HW3, 0
    if visible:
        removed = int(rng.integers(len(visible))) + 1
        part = visible[removed - 1]
        # The same seed without one part: everything else stays pixel by pixel.
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
    """Write `count` examples as uint8 .npy files below `folder`; a second call resumes.

    `done.json` holds the number of complete examples; rows beyond it are undefined.
    """
    if first_seed < HELD_OUT_SEEDS + 1_000_000 and first_seed + count > HELD_OUT_SEEDS:
        raise UserError(
            f"seeds {first_seed} to {first_seed + count} overlap the held-out ones from "
            f"{HELD_OUT_SEEDS} on, which are for evaluation only; choose another first seed"
        )
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {
        "images": (count, size, size, 3),
        "instances": (count, size, size),
        "foreground": (count, size, size),
        "without": (count, size, size, 3),
        "removed": (count,),
    }
    # A set is resumed only with the arguments that it was begun with.
    plan = {"count": count, "first_seed": first_seed, "size": size, "scenes": scenes}
    plan["centred"] = centred
    note, done = folder / "done.json", 0
    if note.exists():
        stored = json.loads(note.read_text())
        if {key: stored[key] for key in plan} != plan:
            raise UserError(f"{folder} holds {stored}, expected {plan}; name another folder")
        done = stored["done"]
    # "w+" allocates the whole file; "r+" keeps what an interrupted call wrote.
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "r+" if note.exists() else "w+", np.uint8, shape
        )
        for name, shape in shapes.items()
    }
    write_atomic(note, json.dumps(plan | {"done": done}).encode())
    starts = range(done, count, CHUNK)
    jobs = [(first_seed + at, min(CHUNK, count - at), size, scenes, centred) for at in starts]
    # `map` returns chunks in order, so `done` always counts from the start.
    pool = ProcessPoolExecutor(workers) if workers > 1 else None
    results = pool.map(_render_chunk, jobs) if pool else map(_render_chunk, jobs)
    for at, chunk in zip(starts, tqdm(results, total=len(jobs), unit="chunk"), strict=True):
        for name, array in arrays.items():
            array[at : at + len(chunk[name])] = chunk[name]
            # The arrays reach the disk before the number that declares them complete.
            array.flush()
        write_atomic(note, json.dumps(plan | {"done": min(at + CHUNK, count)}).encode())
    if pool:
        pool.shutdown()
    return folder


def render_sets(folder: Path) -> list[Path]:
    """Render every set of SETS below `folder` that is incomplete: ten minutes on one core."""
    return [
        render_ahead(folder / name, count, seed, scenes=scenes)
        for name, (count, seed, scenes) in SETS.items()
    ]


def open_ahead(folder: Path | str) -> dict[str, np.ndarray]:
    """Read-only memory maps of the complete examples, by the names in ARRAYS."""
    folder = Path(folder)
    if not (folder / "done.json").is_file():
        raise UserError(f"{folder} holds no examples: make them with `render_ahead` first")
    done = json.loads((folder / "done.json").read_text())["done"]
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r")[:done] for name in ARRAYS}


def _render_chunk(job: tuple[int, int, int, float, float]) -> dict[str, np.ndarray]:
    first, count, size, scenes, centred = job
    # Workers share the cores already.
    cv2.setNumThreads(1)
    made = [example(first + index, size, scenes, centred) for index in range(count)]
    return {
        "images": np.stack([one.image_HW3 for one in made]),
        "instances": np.stack([one.instances_HW for one in made]),
        "foreground": np.stack([one.foreground_HW for one in made]).astype(np.uint8),
        "without": np.stack([one.without_HW3 for one in made]),
        "removed": np.array([one.removed for one in made], np.uint8),
    }
