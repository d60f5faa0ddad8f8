"""Drills with the store: a killed run, a full disk, damaged weights files, unusable images."""

import io
import os
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.faults.drill import (
    ROOT,
    FinishedRun,
    Outcome,
    begun,
    command_of,
    draw_images,
    generate,
    process,
    wait_for,
)
from pipeline.dataset.verify import verify

# Rooms of a checkout that a run needs; they are copied where a drill damages a file.
COPIED = ("pipeline", "flows", "detectors", "scenes", "weights")
# Size of the small disk: less than a version needs.
MEGABYTES = 1


def killed(work: Path) -> Outcome:
    """SIGKILL during a run; the same command again gives the digest of an undisturbed run."""
    images, store = draw_images(work / "parts", 6), work / "store"
    whole = generate(images, work / "whole")
    with process(command_of(images, store), work / "log") as child:
        if not wait_for(begun(store)):
            return Outcome("killed", False, "the run did not begin", "the drill")
        child.kill()
        child.wait()
    # What the killed run left behind is reused by the next one.
    kept = len(list((store / ".cache").rglob("*.npz")))
    again = generate(images, store)
    same = again.digest == whole.digest != "" and verify(version_of(again)).ok
    happened = f"exit {child.returncode} with {kept} cache entries; again: the same digest"
    return Outcome("killed", same, happened if same else again.message, lost_unless(same))


def full(work: Path) -> Outcome:
    """The store's disk fills up; one line reports it, and with more room the run succeeds."""
    images = draw_images(work / "parts", 6)
    whole = generate(images, work / "whole")
    with small_disk(work / "disk") as disk:
        if disk is None:
            return Outcome("full", False, "a tmpfs cannot be mounted here", "not carried out")
        store = disk / "store"
        rejected = generate(images, store)
        more_room(disk)
        again = generate(images, store)
        # Exit code 2 is a user error, reported in one line.
        reported = rejected.code == 2 and "No space left" in rejected.message
        same = reported and again.digest == whole.digest != ""
    happened = f"exit {rejected.code}: {rejected.message[:60]}…; with room: the same digest"
    return Outcome(
        "full", same, happened if same else messages_of(rejected, again), lost_unless(same)
    )


def damaged_bundled_weights(work: Path) -> Outcome:
    """One bit of a bundled model file is flipped; nothing is generated with it."""
    images = draw_images(work / "parts", 2)
    for room in COPIED:
        shutil.copytree(ROOT / room, work / "checkout" / room)
    path = work / "checkout" / "weights" / "small_sam.safetensors"
    content = bytearray(path.read_bytes())
    # In the middle: among the weights, not in the header.
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    run = generate(images, work / "store", root=work / "checkout")
    reported = run.code == 2 and path.name in run.stderr and not published(work / "store")
    return Outcome(
        "bundled weights", reported, message_or_stderr(run, reported), lost_unless(reported)
    )


def damaged_pulled_weights(work: Path) -> Outcome:
    """A pulled LaMa is truncated; the checksum of its pin rejects it."""
    images, folder = draw_images(work / "parts", 2), work / "weights"
    folder.mkdir()
    path = folder / "big-lama.pt"
    shutil.copy(ROOT / "weights" / "small_lama.pt", path)
    with path.open("r+b") as file:
        # As an interrupted copy leaves it.
        file.truncate(path.stat().st_size // 2)
    run = generate_with_lama(images, work / "store", folder)
    reported = run.code == 2 and "big-lama" in run.message and not published(work / "store")
    return Outcome(
        "pulled weights", reported, message_or_stderr(run, reported), lost_unless(reported)
    )


def weights_cut_in_mid_run(work: Path) -> Outcome:
    """A model file changes during a run, which keeps using what it has read."""
    images, store = draw_images(work / "parts", 4), work / "store"
    for room in COPIED:
        shutil.copytree(ROOT / room, work / "checkout" / room)
    whole = generate(images, work / "whole")
    variables = {"PYTHONPATH": str(work / "checkout")}
    with process(command_of(images, store), work / "log", **variables) as child:
        began = wait_for(begun(store))
        path = work / "checkout" / "weights" / "small_sam.safetensors"
        half = path.read_bytes()[: path.stat().st_size // 2]
        # Unlink first, as a copy that replaces the file does: the running program keeps the old
        # inode.
        path.unlink()
        path.write_bytes(half)
        child.wait()
    again = generate(images, store)
    same = began and again.digest == whole.digest != ""
    happened = f"the run ended with {child.returncode}; with the right file: the same digest"
    return Outcome("weights in mid-run", same, happened, lost_unless(same))


def poisoned(work: Path) -> Outcome:
    """Every kind of bad image among good ones: each is recorded, the others are generated."""
    images = draw_images(work / "parts", 2)
    whole = generate(images, work / "whole")
    bad = write_bad_images(images)
    run = generate(images, work / "store")
    failures = run.answer.get("failures", [])
    reported = sorted(failure["name"] for failure in failures) == sorted(bad)
    same = run.code == 3 and reported and run.answer.get("accepted") == whole.answer.get("accepted")
    happened = (
        f"exit {run.code}; {len(failures)} of {len(bad)} bad images recorded, 2 images generated"
    )
    return Outcome("poison", same, happened if same else run.stderr[-400:], lost_unless(same))


def write_bad_images(folder: Path) -> list[str]:
    """Write one file of each kind that cannot be used; returns their names."""
    # JPEG as CMYK and TIFF with NaN: formats that decode but hold no usable image.
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    jpeg = io.BytesIO()
    Image.fromarray(noise).convert("CMYK").save(jpeg, "JPEG")
    tiff = io.BytesIO()
    Image.fromarray(np.full((64, 64), np.nan, np.float32)).save(tiff, "TIFF")
    whole = (folder / "000.png").read_bytes()
    content = {
        "bomb.png": png_of(65_500, 65_500),
        "cut.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "one_pixel.png": png_of(1, 1),
        "wide.png": png_of(65_500, 1),
        "junk_cmyk.jpg": jpeg.getvalue()[:700] + bytes(300),
        "nan.tiff": tiff.getvalue(),
        "text.png": b"not an image\n",
    }
    for name, some in content.items():
        (folder / name).write_bytes(some)
    return list(content)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims that size, with correct checksums and a million packed zeros."""

    def chunk(kind: bytes, some: bytes) -> bytes:
        checked = kind + some
        return struct.pack(">I", len(some)) + checked + struct.pack(">I", zlib.crc32(checked))

    # Width, height, 8 bits, greyscale.
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1_000_000), 9)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def generate_with_lama(images: Path, store: Path, weights: Path) -> FinishedRun:
    """A run with a pulled LaMa, which takes precedence over the small bundled one."""
    manifest = weights.parent / "manifest.yaml"
    manifest.write_text(
        "image_size: 128\nmodels: {inpaint: {backend: lama}}\nedits: {per_image: 2}\n"
        f"store: {store}\ncategories: {{parts: {{source: folder, path: {images}}}}}\n"
    )
    arguments = ["generate", "--manifest", str(manifest), "--workers", "1", "--json"]
    run = subprocess.run(
        [*command_of(images, store)[:3], *arguments], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ANOMALYSMITH_WEIGHTS": str(weights)},
        check=False,
    )  # fmt: skip
    return FinishedRun(run.returncode, {}, run.stderr)


@contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """A file system in memory of one megabyte, or None where mounting is not permitted."""
    place.mkdir()
    size = f"size={MEGABYTES}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield place if mounted else None
    finally:
        if mounted:
            # Lazy: a child process may still have a file open.
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def more_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)


def version_of(run: FinishedRun) -> Path:
    return Path(run.answer["version_dir"])


def published(store: Path) -> bool:
    return any(store.glob("*/[0-9]*"))


def messages_of(*runs: FinishedRun) -> str:
    return " / ".join(f"exit {run.code}, {run.digest[:8]}: {run.message[-200:]}" for run in runs)


def message_or_stderr(run: FinishedRun, reported: bool) -> str:
    return f"exit {run.code}: {run.message[:110]}" if reported else run.stderr[-300:]


def lost_unless(good: bool) -> str:
    return "nothing" if good else "see what happened"
