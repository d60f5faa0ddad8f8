"""Runs programs where every packet and every written file is seen, those of native code, too.

    unshare -rnm python tests/helpers/sealed.py < job.json       # as `run_sealed` calls it

The programs run in a network namespace whose only interface is loopback; the default route leads
there as well, so a packet to another machine, a question to a DNS server among them, comes by and
is written down. They see the machine's files below an overlay: what they write lands in its upper
layer, is listed at the end, and is gone. In every Python process an audit hook watches, too.

Where the kernel permits none of this (containers, macOS), the audit hook is left: it sees what
Python code does, in each process.
"""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

HOOK = Path(__file__).parent / "audit_guard"
LOG = "SEALED_LOG"
# Mounted as they are: the kernel's own files, and devices.
KERNEL = ("proc", "sys", "dev")
ETHERNET_ALL = 3
IPV4, IPV6 = 4, 6
UDP, TCP = 17, 6
DNS = 53


@dataclass(frozen=True)
class Ended:
    """One program that has ended."""

    words: tuple[str, ...]
    code: int
    output: str


@dataclass(frozen=True)
class Seen:
    """What the programs did: how they ended, whom they tried to reach, what they wrote where."""

    programs: tuple[Ended, ...]
    reached: tuple[str, ...]
    written: tuple[str, ...]

    def beyond(self, *allowed: Path) -> list[str]:
        """The written paths that lie in none of these folders."""
        return [path for path in self.written if not any(map(Path(path).is_relative_to, allowed))]


@cache
def why_not() -> str:
    """Why the kernel cannot seal a program here; empty where it can."""
    missing = [name for name in ("unshare", "ip", "mount", "chroot") if not shutil.which(name)]
    if missing:
        return f"no {missing[0]} on this machine"
    with tempfile.TemporaryDirectory() as place:
        try:
            _in_namespace({"place": place, "programs": [], "env": {}})
        except subprocess.CalledProcessError as error:
            said = error.stderr.strip().splitlines()
            return f"namespaces or overlays are not permitted here: {said[-1]}"
    return ""


def run_sealed(
    programs: Sequence[Sequence[Any]], home: Path, environment: Mapping[str, str]
) -> Seen:
    """Run programs one after the other, in `home / "work"`, with this environment and no other.

    `home` is the user's home, `home / "tmp"` the temporary folder. What they write is gone at the
    end. Where the kernel does not permit it, `run_audited` runs them.
    """
    if why_not():
        return run_audited(programs, home, environment)
    return _seen(_in_namespace, programs, home, environment)


def run_audited(
    programs: Sequence[Sequence[Any]], home: Path, environment: Mapping[str, str]
) -> Seen:
    """The same without the kernel: what Python code does, and what is new in the home and stays."""
    before = set(home.rglob("*"))
    seen = _seen(_run, programs, home, environment)
    new = {str(path) for path in {*home.rglob("*")} - before - {home / "work", home / "tmp"}}
    return replace(seen, written=tuple(sorted({*seen.written, *new})))


def _seen(
    run: Callable[[dict[str, Any]], dict[str, Any]],
    programs: Sequence[Sequence[Any]],
    home: Path,
    environment: Mapping[str, str],
) -> Seen:
    work, tmp = home / "work", home / "tmp"
    for folder in (work, tmp):
        folder.mkdir(parents=True, exist_ok=True)
    log = tmp / "audit.log"
    paths = os.pathsep.join(filter(None, (str(HOOK), environment.get("PYTHONPATH"))))
    given = {
        **environment, "HOME": str(home), "TMPDIR": str(tmp), "PYTHONPATH": paths, LOG: str(log),
        # Not what is watched: where the interpreter keeps compiled modules.
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    words = [[str(word) for word in program] for program in programs]
    answer = run(
        {"place": str(home), "programs": words, "env": given, "cwd": str(work), "log": str(log)}
    )
    ended = (Ended(tuple(w), *end) for w, end in zip(words, answer["ended"], strict=True))
    written = (path for path in answer["written"] if path != str(log))
    return Seen(tuple(ended), tuple(answer["reached"]), tuple(written))


def _in_namespace(job: dict[str, Any]) -> dict[str, Any]:
    command = ["unshare", "--map-root-user", "--net", "--mount", sys.executable, __file__]
    done = subprocess.run(
        command, input=json.dumps(job), capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _run(job: dict[str, Any], root: str | None = None) -> dict[str, Any]:
    """Run the programs of a job, below `root` if given; what their audit hooks saw."""
    ended = []
    # Named by their absolute paths, so that a changed root finds them.
    prefix = ["chroot", root] if root else []
    chdir = ["sh", "-c", 'cd "$0" && exec "$@"', job.get("cwd", "/")]
    for program in job["programs"]:
        done = subprocess.run(
            [*prefix, *chdir, *program], env=job["env"], text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        ended.append((done.returncode, done.stdout))
    log = Path((root or "") + job["log"]) if "log" in job else None
    events = [line.split(" ", 1) for line in _lines(log)]
    by_kind = {kind: sorted({what for k, what in events if k == kind}) for kind in ("net", "file")}
    return {"ended": ended, "reached": by_kind["net"], "written": by_kind["file"]}


def _lines(log: Path | None) -> list[str]:
    return log.read_text().splitlines() if log and log.exists() else []


def _overlay(place: Path) -> tuple[Path, Path]:
    """A root below which everything can be written; itself and the layer that catches it."""
    stage = place / "sealed"
    stage.mkdir(parents=True, exist_ok=True)
    _call("mount", "-t", "tmpfs", "none", stage)
    upper, scratch, root = (stage / name for name in ("upper", "scratch", "root"))
    for folder in (upper, scratch, root):
        folder.mkdir()
    for entry in sorted(Path("/").iterdir()):
        inner = root / entry.name
        if entry.is_symlink():
            inner.symlink_to(entry.readlink())
        elif entry.is_dir():
            inner.mkdir()
            if entry.name in KERNEL:
                _call("mount", "--rbind", entry, inner)
                continue
            layers = [upper / entry.name, scratch / entry.name]
            for layer in layers:
                layer.mkdir()
            options = f"lowerdir={entry},upperdir={layers[0]},workdir={layers[1]},userxattr"
            try:
                _call("mount", "-t", "overlay", "overlay", "-o", options, inner)
            except subprocess.CalledProcessError:
                # A folder with file systems mounted in it cannot be a layer: no writing there.
                if place.is_relative_to(entry):
                    raise
                _call("mount", "--rbind", entry, inner)
                _call("mount", "-o", "remount,bind,ro", inner)
    return root, upper


def _call(*words: Any) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True)


class _Sniffer(threading.Thread):
    """Writes down where packets on loopback are addressed to, unless to loopback itself."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.found: set[str] = set()
        every = socket.htons(ETHERNET_ALL)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, every)
        self._socket.bind(("lo", 0))

    def run(self) -> None:
        while True:
            packet, (_, _, kind, *_) = self._socket.recvfrom(65536)
            # A packet on loopback comes by twice.
            if kind == socket.PACKET_OUTGOING and (line := _addressee(packet)):
                self.found.add(line)

    def stop(self) -> set[str]:
        """What was found, up to the last packet sent so far: a last one of our own says so."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"end", ("192.0.2.255", 9))
        end = "192.0.2.255 port 9"
        while end not in self.found:
            threading.Event().wait(0.01)
        return self.found - {end}


def _addressee(packet: bytes) -> str:
    """Address and port of a packet that leaves loopback, with the name if DNS is asked for one."""
    version = packet[0] >> 4
    if version == IPV4:
        begin, protocol, to = (packet[0] & 15) * 4, packet[9], packet[16:20]
        loopback = to[0] == 127
    elif version == IPV6:
        begin, protocol, to = 40, packet[6], packet[24:40]
        # Neighbour discovery, to link-local and multicast addresses, is the kernel's own.
        loopback = to == bytes(15) + b"\1" or protocol not in (UDP, TCP)
    else:
        return ""
    port = struct.unpack("!H", packet[begin + 2 : begin + 4])[0] if protocol in (UDP, TCP) else 0
    if protocol == UDP and port == DNS:
        return f"asks DNS for {_name_asked(packet[begin + 8 :])}"
    if loopback or _is_answer(packet, begin, protocol):
        return ""
    family = socket.AF_INET if version == IPV4 else socket.AF_INET6
    return f"{socket.inet_ntop(family, to)} port {port}"


def _is_answer(packet: bytes, begin: int, protocol: int) -> bool:
    # The kernel answers for the other machine: ICMP "unreachable", TCP reset.
    return protocol not in (UDP, TCP) or (protocol == TCP and bool(packet[begin + 13] & 4))


def _name_asked(message: bytes) -> str:
    """The name in a DNS question: labels with their lengths, after a header of 12 bytes."""
    labels, at = [], 12
    while at < len(message) and (length := message[at]):
        labels.append(message[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return ".".join(labels)


def main() -> None:
    """In the namespaces: run the job on standard input below an overlay, print what was seen."""
    job = json.load(sys.stdin)
    root, upper = _overlay(Path(job["place"]))
    _call("ip", "link", "set", "lo", "up")
    _call("ip", "route", "add", "local", "default", "dev", "lo")
    # Without IPv6 in the kernel nothing can leave that way.
    subprocess.run(["ip", "-6", "route", "add", "local", "default", "dev", "lo"], check=False)
    sniffer = _Sniffer()
    sniffer.start()
    answer = _run(job, str(root))
    written = {f"/{p.relative_to(upper)}" for p in upper.glob("*/**/*") if _is_leaf(p)}
    answer["reached"] = sorted(sniffer.stop() | set(answer["reached"]))
    answer["written"] = sorted(written | set(answer["written"]))
    print(json.dumps(answer))


def _is_leaf(path: Path) -> bool:
    # An overlay copies the folders above a written file.
    return path.is_symlink() or not path.is_dir() or not any(path.iterdir())


if __name__ == "__main__":
    main()
