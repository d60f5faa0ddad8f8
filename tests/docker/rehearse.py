"""Build the Dockerfile without a container engine: run every RUN and COPY in a Debian root.

    python tests/docker/rehearse.py WORK [--target STAGE] [--build-arg DEVICE=cuda] [--keep]

`FROM python:…` is replaced by a Debian of the same release from `debootstrap` with Debian's own
Python 3.11; a stage that starts from another one gets its files as hard links. Steps run under
chroot in a mount namespace of their own, as the stage's user and with its variables only. At the
end, without any network, the health check runs and `anomalysmith generate` makes a version.

Needs root, debootstrap, about 10 GB and most of an hour. Access to packages depends on the machine:
`--secret pip=FILE` provides the Dockerfile's secret `pip`, `--bind PATH[:INNER]` mounts a file or
folder of this machine during the build, `--pass NAME[=VALUE]` passes an environment variable,
`--mirror URL` names a Debian mirror. None of these remains in the roots.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from dockerfile import Recipe, Stage, Step, command, expand, pairs, parse

PROJECT = Path(__file__).resolve().parents[2]
RELEASE = "bookworm"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
STANDS_FOR_BASE = ("python3", "python3-venv", "ca-certificates")


@dataclass(slots=True)
class Root:
    """The files of one stage, and the settings of its instructions so far."""

    place: Path
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = ""
    health: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    @property
    def variables(self) -> dict[str, str]:
        return self.arguments | self.environment

    def inside(self, path: str) -> Path:
        """The path on this machine of a path in the image; relative ones start from WORKDIR."""
        return self.place / os.path.normpath(os.path.join(self.folder, path)).lstrip("/")


class Rehearsal:
    """All stages of one build below a working folder."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work = Path(options.work).resolve()
        self.secrets = dict(pair.split("=", 1) for pair in options.secret)
        self.given = dict(pair.split("=", 1) for pair in options.build_arg)
        words = (word.partition("=") for word in options.passed)
        self.passed = {name: value or os.environ[name] for name, _, value in words}
        self.roots: dict[str, Root] = {}
        self.reused: set[str] = set()

    def run(self, recipe: Recipe) -> Root:
        """Build the stages that the target needs; returns its root."""
        root = None
        for stage in recipe.needed(self.options.target):
            root = self.begin(recipe, stage)
            for step in stage.steps:
                if root.place.name in self.reused and step.word in ("RUN", "COPY"):
                    continue
                started = time.monotonic()
                self.take(root, step)
                if step.word in ("RUN", "COPY"):
                    said = f"{step.word} {step.rest}"[:84]
                    print(f"{time.monotonic() - started:8.1f} s  line {step.line:3d}  {said}")
        assert root is not None
        return root

    def begin(self, recipe: Recipe, stage: Stage) -> Root:
        """The root that a stage starts from."""
        place = self.work / (stage.name or "final")
        if place.is_dir():
            # Built by an earlier call with --keep.
            self.reused.add(place.name)
        base = expand(stage.base, recipe.arguments | self.given)
        print(f"stage {place.name} from {base}", flush=True)
        if base in self.roots:
            before = self.roots[base]
            if place.name not in self.reused:
                call("cp", "-al", str(before.place), str(place))
            return Root(place, dict(before.environment), {}, before.folder, before.user)
        if place.name in self.reused:
            return Root(place)
        debian = self.work / "debian"
        if not debian.is_dir():
            mirror = [self.options.mirror] if self.options.mirror else []
            call("debootstrap", "--variant=minbase", RELEASE, str(debian), *mirror)
        call("cp", "-a", str(debian), str(place))
        root = Root(place)
        packages = " ".join(STANDS_FOR_BASE)
        install = f"apt-get update -q && apt-get install -qy --no-install-recommends {packages}"
        self.inside(root, ["/bin/sh", "-c", install], more={"DEBIAN_FRONTEND": "noninteractive"})
        return root

    def take(self, root: Root, step: Step) -> None:
        """Execute one instruction."""
        rest = expand(step.rest, root.variables) if step.word != "RUN" else step.rest
        if step.word == "RUN":
            # BuildKit hands ARGs to a RUN as variables; they are in no later environment.
            more = root.arguments | self.passed | {"DEBIAN_FRONTEND": "noninteractive"}
            self.inside(root, ["/bin/sh", "-c", step.rest], more=more, mounts=self.mounts(step))
        elif step.word == "COPY":
            self.copy(root, step, rest)
        elif step.word == "ARG":
            name, _, value = rest.partition("=")
            root.arguments[name] = self.given.get(name, value)
        elif step.word == "ENV":
            root.environment |= pairs(rest)
        elif step.word == "WORKDIR":
            root.folder = os.path.normpath(os.path.join(root.folder, rest))
            root.inside(".").mkdir(parents=True, exist_ok=True)
        elif step.word == "USER":
            root.user = rest
        elif step.word == "HEALTHCHECK":
            root.health = command(rest)
        elif step.word == "CMD":
            root.command = command(rest)
        self.roots.setdefault(root.place.name, root)

    def mounts(self, step: Step) -> dict[str, str]:
        """Host path -> path inside, of the secrets that a RUN mounts and that were given."""
        found = {}
        for value in (value for name, value in step.options if name == "mount"):
            wanted = dict(part.split("=", 1) for part in value.split(","))
            if wanted.get("type") == "secret" and wanted["id"] in self.secrets:
                found[self.secrets[wanted["id"]]] = wanted["target"]
        return found

    def copy(self, root: Root, step: Step, rest: str) -> None:
        """COPY from the context, without what .dockerignore names, or from another stage."""
        *sources, target = shlex.split(rest)
        into = root.inside(target)
        origin = step.option("from")
        if origin:
            into.parent.mkdir(parents=True, exist_ok=True)
            call("cp", "-al", str(self.roots[origin].place / sources[0].lstrip("/")), str(into))
            return
        for source in sources:
            for path in context_files(PROJECT / source):
                folder = (PROJECT / source).is_dir()
                below = path.relative_to(PROJECT / source) if folder else Path(path.name)
                place = into / below if folder or target.endswith("/") else into
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place)
                os.chown(place, 0, 0)

    def inside(
        self,
        root: Root,
        words: list[str],
        more: dict[str, str] | None = None,
        mounts: dict[str, str] | None = None,
        network: bool = True,
    ) -> str:
        """Run a command in a root; its output. Without network it sees a loopback device only."""
        binds = dict(mounts or {})
        if network:
            binds |= {path: path for path in ("/etc/resolv.conf", "/etc/hosts")}
            binds |= dict((pair.split(":") * 2)[:2] for pair in self.options.bind)
        made = [self.mount_point(root, Path(host), inner) for host, inner in binds.items()]
        lines = ["set -e", f"cd {shlex.quote(str(root.place))}"]
        lines += ["mount -t proc proc proc", "mount --rbind /dev dev"]
        lines += [
            f"mount --bind -o ro {shlex.quote(os.path.realpath(host))} .{shlex.quote(inner)}"
            for host, inner in binds.items()
        ]
        if not network:
            lines.append("ip link set lo up")
        environment = root.environment | (more or {}) | {"HOME": self.home(root)}
        setting = " ".join(shlex.quote(f"{name}={value}") for name, value in environment.items())
        who = f"--userspec={root.user}:{root.user}" if root.user else ""
        go = shlex.quote(f"cd {shlex.quote(root.folder)} && exec {shlex.join(words)}")
        lines.append(f"exec chroot {who} . /usr/bin/env -i {setting} /bin/sh -c {go}")
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        alone += [] if network else ["--net"]
        try:
            return call(*alone, "/bin/sh", "-c", "\n".join(lines))
        finally:
            for place in filter(None, made):
                place.rmdir() if place.is_dir() else place.unlink(missing_ok=True)

    def mount_point(self, root: Root, host: Path, inner: str) -> Path | None:
        """Create the mount point of a bind mount; returned when it has to be removed afterwards."""
        place = root.place / inner.lstrip("/")
        if place.exists() and not place.is_symlink():
            return None
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if host.is_dir() else place.touch()
        return place

    def home(self, root: Root) -> str:
        for line in (root.place / "etc/passwd").read_text().splitlines():
            name, _, number, *_, home, _ = line.split(":")
            if root.user in (name, number):
                return home
        return "/root"


def context_files(place: Path) -> list[Path]:
    """The files below a path of the context that .dockerignore lets through, sorted."""
    lines = (PROJECT / ".dockerignore").read_text().split()
    patterns = [line.strip().rstrip("/") for line in lines]
    if place.is_file():
        return [place]
    found = []
    for folder, folders, files in os.walk(place):
        here = Path(folder).relative_to(PROJECT)
        folders[:] = sorted(name for name in folders if not ignored(here / name, patterns))
        found += [Path(folder) / name for name in files if not ignored(here / name, patterns)]
    return sorted(found)


def ignored(path: Path, patterns: list[str]) -> bool:
    """Whether a pattern matches: `**/x` at every depth, `x` at the top only."""
    name = path.as_posix()
    return any(
        fnmatch(path.name, pattern[3:]) if pattern.startswith("**/") else fnmatch(name, pattern)
        for pattern in patterns
    )


def call(*words: str) -> str:
    """Run a program; its standard output. On failure print the end of its output and exit."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        print((done.stdout + done.stderr)[-4000:], file=sys.stderr)
        sys.exit(f"step failed with exit code {done.returncode}")
    return done.stdout


def check(rehearsal: Rehearsal, root: Root) -> None:
    """Without a network, as the image's user: health check, then generate and verify a version."""
    if rehearsal.options.target:
        # A service: start it and run its health check.
        words = f"{shlex.join(root.command)} & sleep 60; {shlex.join(root.health)} && echo healthy"
        print(rehearsal.inside(root, ["/bin/sh", "-c", words], network=False)[-200:])
        return
    print(rehearsal.inside(root, ["id", "-u"], network=False).strip(), "is the user")
    print("health check:", rehearsal.inside(root, root.health, network=False)[-160:].strip())
    generate = "anomalysmith generate --category tray --limit 2 --per-image 2 --workers 1 --json"
    said = rehearsal.inside(root, ["/bin/sh", "-c", generate], network=False)
    print("generate:", said.strip().splitlines()[-1][:400])
    verify = "anomalysmith verify out/store/tray/0001-*"
    print("verify:", rehearsal.inside(root, ["/bin/sh", "-c", verify], network=False)[-200:])
    touch = "touch /app/pipeline/mine 2>&1 && echo writable || echo 'the program is read-only'"
    print(rehearsal.inside(root, ["/bin/sh", "-c", touch], network=False).strip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", help="an empty folder on a disk with room")
    parser.add_argument("--target", default="", help="stage; empty is the last one")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--secret", action="append", default=[], metavar="ID=FILE")
    parser.add_argument("--bind", action="append", default=[], metavar="PATH[:INNER]")
    parser.add_argument(
        "--pass", action="append", default=[], dest="passed", metavar="NAME[=VALUE]"
    )
    parser.add_argument("--mirror", default="", metavar="URL")
    parser.add_argument("--keep", action="store_true", help="leave the roots for the next call")
    options = parser.parse_args()
    rehearsal = Rehearsal(options)
    rehearsal.work.mkdir(parents=True, exist_ok=True)
    try:
        root = rehearsal.run(parse((PROJECT / "Dockerfile").read_text()))
        check(rehearsal, root)
    finally:
        if not options.keep:
            shutil.rmtree(rehearsal.work, ignore_errors=True)


if __name__ == "__main__":
    main()
