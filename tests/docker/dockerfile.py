"""A Dockerfile as a list of stages and steps: the subset of the language that this project uses.

Supported: comments, continued lines, ARG before and after FROM, variables, options such as
`--from=packages`, and commands as JSON lists. Heredocs and ONBUILD are an error.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

KNOWN = frozenset(
    (
        *("ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "USER"),
        *("EXPOSE", "VOLUME", "HEALTHCHECK", "CMD", "ENTRYPOINT", "LABEL"),
    )
)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
_OPTION = re.compile(r"--([a-z-]+)(?:=(\S+))?\s+")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction: its word, its options (each as often as given), the rest of the line."""

    line: int
    word: str
    options: tuple[tuple[str, str], ...]
    rest: str

    def option(self, name: str) -> str | None:
        return next((value for key, value in self.options if key == name), None)


@dataclass(slots=True)
class Stage:
    """The instructions from one FROM to the next; variables in `base` are not expanded yet."""

    name: str
    base: str
    steps: list[Step] = field(default_factory=list)


@dataclass(slots=True)
class Recipe:
    """The whole file; `arguments` are the ARGs before the first FROM with their defaults."""

    arguments: dict[str, str]
    stages: list[Stage]

    def stage(self, name: str) -> Stage:
        """The stage of that name, the last one for an empty name."""
        if not name:
            return self.stages[-1]
        return next(stage for stage in self.stages if stage.name == name)

    def needed(self, name: str) -> list[Stage]:
        """The stages that `docker build --target NAME` would build, in the order of the file."""
        wanted = {id(self.stage(name))}
        for stage in reversed(self.stages):
            if id(stage) not in wanted:
                continue
            sources = [step.option("from") for step in stage.steps if step.word == "COPY"]
            wanted |= {id(s) for s in self.stages if s.name and s.name in (stage.base, *sources)}
        return [stage for stage in self.stages if id(stage) in wanted]


def parse(text: str) -> Recipe:
    """Parse a Dockerfile; ValueError with the line number for anything unsupported."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for number, line in _joined(text):
        word, _, rest = line.partition(" ")
        word = word.upper()
        if word not in KNOWN or "<<" in rest:
            raise ValueError(f"line {number}: {line[:60]!r} is not understood")
        options = []
        rest = rest.strip()
        while match := _OPTION.match(rest):
            options.append((match[1], match[2] or ""))
            rest = rest[match.end() :]
        if word == "FROM":
            base, _, name = re.sub(r"\s+as\s+", " AS ", rest, flags=re.I).partition(" AS ")
            stages.append(Stage(name.strip(), base.strip()))
        elif stages:
            stages[-1].steps.append(Step(number, word, tuple(options), rest))
        elif word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            raise ValueError(f"line {number}: {word} before the first FROM")
    return Recipe(arguments, stages)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$NAME`, `${NAME}` and `${NAME:-default}`; unknown names become empty."""
    return _VARIABLE.sub(lambda m: variables.get(m[1] or m[3], m[2] or ""), text)


def pairs(text: str) -> dict[str, str]:
    """The assignments of one ENV or LABEL line."""
    return {name: value.strip('"') for name, value in re.findall(r'(\w+)=("[^"]*"|\S*)', text)}


def command(text: str) -> list[str]:
    """The arguments of CMD, ENTRYPOINT or HEALTHCHECK CMD, in shell or JSON form."""
    text = text.removeprefix("CMD").strip() if text.startswith("CMD") else text
    return json.loads(text) if text.startswith("[") else ["/bin/sh", "-c", text]


def _joined(text: str) -> list[tuple[int, str]]:
    """Instructions with their first line; comment lines inside continued ones are dropped."""
    found: list[tuple[int, str]] = []
    parts: list[str] = []
    begin = 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        begin = begin if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            found.append((begin, " ".join(parts)))
            parts = []
    return found
