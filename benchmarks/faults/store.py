"""Drills around the store: a killed run, a full disk, a damaged weights file, poisoned images."""

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
    Ended,
    Outcome,
    begun,
    draw_photographs,
    generate,
    process,
    wait_for,
    words_of,
)
from pipeline.dataset.verify import verify

COPIED = ("pipeline", "flows", "detectors", "scenes", "weights")
MEGABYTES = 1


def killed(work: Path) -> Outcome:
    """SIGKILL in mid-run; the same command again gives the digest of an undisturbed run."""
    photos, store = draw_photographs(work / "parts", 6), work / "store"
    whole = generate(photos, work / "whole")
    with process(words_of(photos, store), work / "log") as child:
        if not wait_for(begun(store)):
            return Outcome("killed", False, "the run did not begin", "the drill")
        child.kill()
        child.wait()
    kept = len(list((store / ".cache").rglob("*.npz")))
    again = generate(photos, store)
    same = again.digest == whole.digest != "" and verify(version_of(again)).ok
    happened = f"exit {child.returncode} with {kept} cache entries; again: the same digest"
    return Outcome("killed", same, happened if same else again.message, lost_unless(same))


def full(work: Path) -> Outcome:
    """The store's disk fills up; one line says so, and with room the run goes on."""
    photos = draw_photographs(work / "parts", 6)
    whole = generate(photos, work / "whole")
    with small_disk(work / "disk") as disk:
        if disk is None:
            return Outcome("full", False, "a tmpfs cannot be mounted here", "not carried out")
        store = disk / "store"
        refused = generate(photos, store)
        more_room(disk)
        again = generate(photos, store)
        told = refused.code == 2 and "No space left" in refused.message
        same = told and again.digest == whole.digest != ""
    happened = f"exit {refused.code}: {refused.message[:60]}…; with room: the same digest"
    return Outcome("full", same, happened if same else said_by(refused, again), lost_unless(same))


def damaged_bundled_weights(work: Path) -> Outcome:
    """One bit of a bundled model file is wrong; nothing is made with it."""
    photos = draw_photographs(work / "parts", 2)
    for room in COPIED:
        shutil.copytree(ROOT / room, work / "checkout" / room)
    path = work / "checkout" / "weights" / "small_sam.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)
    run = generate(photos, work / "store", root=work / "checkout")
    told = run.code == 2 and path.name in run.said and not published(work / "store")
    return Outcome("bundled weights", told, told_or_said(run, told), lost_unless(told))


def damaged_pulled_weights(work: Path) -> Outcome:
    """A pulled LaMa is cut short after its first use; its pin refuses it."""
    photos, folder = draw_photographs(work / "parts", 2), work / "weights"
    folder.mkdir()
    path = folder / "big-lama.pt"
    shutil.copy(ROOT / "weights" / "small_lama.pt", path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    run = generate_with_lama(photos, work / "store", folder)
    told = run.code == 2 and "big-lama" in run.message and not published(work / "store")
    return Outcome("pulled weights", told, told_or_said(run, told), lost_unless(told))


def weights_cut_in_mid_run(work: Path) -> Outcome:
    """A model file changes under a running program, which holds what it has read."""
    photos, store = draw_photographs(work / "parts", 4), work / "store"
    for room in COPIED:
        shutil.copytree(ROOT / room, work / "checkout" / room)
    whole = generate(photos, work / "whole")
    variables = {"PYTHONPATH": str(work / "checkout")}
    with process(words_of(photos, store), work / "log", **variables) as child:
        began = wait_for(begun(store))
        path = work / "checkout" / "weights" / "small_sam.safetensors"
        half = path.read_bytes()[: path.stat().st_size // 2]
        path.unlink()  # as a copy that replaces it does
        path.write_bytes(half)
        child.wait()
    again = generate(photos, store)
    same = began and again.digest == whole.digest != ""
    happened = f"the run ended with {child.returncode}; with the right file: the same digest"
    return Outcome("weights in mid-run", same, happened, lost_unless(same))


def poisoned(work: Path) -> Outcome:
    """Every kind of bad image among good ones: each is recorded, the others are forged."""
    photos = draw_photographs(work / "parts", 2)
    whole = generate(photos, work / "whole")
    bad = poisons(photos)
    run = generate(photos, work / "store")
    failures = run.answer.get("failures", [])
    told = sorted(failure["name"] for failure in failures) == sorted(bad)
    same = run.code == 3 and told and run.answer.get("accepted") == whole.answer.get("accepted")
    happened = f"exit {run.code}; {len(failures)} of {len(bad)} poisons recorded, 2 images forged"
    return Outcome("poison", same, happened if same else run.said[-400:], lost_unless(same))


def poisons(folder: Path) -> list[str]:
    """Write one image of each kind that cannot be used; their names."""
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
    """A PNG that says it is so large, with checksums that agree and a million packed zeros."""

    def chunk(kind: bytes, some: bytes) -> bytes:
        checked = kind + some
        return struct.pack(">I", len(some)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1_000_000), 9)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def generate_with_lama(photos: Path, store: Path, weights: Path) -> Ended:
    """A run that finds a pulled LaMa, which is preferred to the small bundled one."""
    manifest = weights.parent / "manifest.yaml"
    manifest.write_text(
        "image_size: 128\nmodels: {inpaint: {backend: lama}}\nedits: {per_image: 2}\n"
        f"store: {store}\ncategories: {{parts: {{source: folder, path: {photos}}}}}\n"
    )
    words = ["generate", "--manifest", str(manifest), "--workers", "1", "--json"]
    run = subprocess.run(
        [*words_of(photos, store)[:3], *words], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ANOMALYSMITH_WEIGHTS": str(weights)},
        check=False,
    )  # fmt: skip
    return Ended(run.returncode, {}, run.stderr)


@contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """A file system in memory of a megabyte, or None where none may be mounted."""
    place.mkdir()
    size = f"size={MEGABYTES}m"
    mount = ["mount", "-t", "tmpfs", "-o", size, "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


def more_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)


def version_of(run: Ended) -> Path:
    return Path(run.answer["version_dir"])


def published(store: Path) -> bool:
    return any(store.glob("*/[0-9]*"))


def said_by(*runs: Ended) -> str:
    return " / ".join(f"exit {run.code}, {run.digest[:8]}: {run.message[-200:]}" for run in runs)


def told_or_said(run: Ended, told: bool) -> str:
    return f"exit {run.code}: {run.message[:110]}" if told else run.said[-300:]


def lost_unless(good: bool) -> str:
    return "nothing" if good else "see what happened"
