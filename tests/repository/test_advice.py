"""What messages advise exists: every command, and every option for everyone who may read of it.

A message of a shared module is read by users of several commands. So an option in it either stands
behind its command (`generate --store`), or every command of its readers has it.
"""

import ast
import functools
import re
from collections.abc import Iterator

import pytest

from flows import reference

COMMANDS = dict(reference.commands())
OPTIONS = {
    name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
    for name, command in COMMANDS.items()
}
# Who reads the messages of a shared place; the longest prefix counts.
TRAIN = ("train", "compare")
WALKS = ("generate", "predict", "evaluate", "distill-teacher")
READERS = {
    "detectors/distillation": ("distill-teacher",),
    "detectors/networks/backbones.py": ("distill-teacher",),
    "detectors/evaluation": ("evaluate", "predict", "export-onnx"),
    "detectors": TRAIN,
    "pipeline/export": ("export",),
    "pipeline/imaging/walk.py": WALKS,
    "pipeline/sources": ("generate", "rules draft", "rules check"),
    # The page of the manifest, which names options of any command.
    "pipeline/config/docs.py": (),
    "pipeline": tuple(COMMANDS),
    # Options of commands are checked by these themselves: they name what the user has typed.
    "flows": (),
}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+\b(?!:)")
# `generate --store`, or a whole line to type: the command, and what follows it.
USE = re.compile(
    rf"(?:anomalysmith |`)({'|'.join(sorted(COMMANDS, key=len, reverse=True))})\b([^`\n]*)"
)
# A line to type; the first word behind the program's name is a command or a group of them.
CALL = re.compile(r"(?:`|next +|/bin/)anomalysmith ([a-z][a-z-]*)")
FIRST_WORDS = {name.split()[0] for name in COMMANDS}
# Lines for other programs, and style sheets.
FOREIGN = re.compile(
    r"(?:prefect|anomalib|pip|python -m)[ `][^`\n]*|var\(--[^)]*\)|\(in a manifest:"
)


@functools.cache
def messages() -> tuple[tuple[str, str], ...]:
    """Every text in the code that names an option or a command."""
    return tuple(
        (where, text) for where, text in _texts() if "--" in text or "anomalysmith" in text
    )


def _texts() -> Iterator[tuple[str, str]]:
    """(path:line, text) of every text in the code but docstrings; values in it become X."""
    for top in ("pipeline", "detectors", "flows"):
        for path in sorted((reference.PROJECT / top).rglob("*.py")):
            code = path.read_text()
            # Most files hold neither; parsing takes the time.
            if "--" not in code and "anomalysmith " not in code:
                continue
            tree = ast.parse(code)
            bodies = (ast.Module, ast.FunctionDef, ast.ClassDef)
            skipped = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, bodies) and node.body and isinstance(node.body[0], ast.Expr)
            }
            joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
            skipped |= {id(part) for node in joined for part in node.values}
            where = path.relative_to(reference.PROJECT).as_posix()
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    parts = [v.value if isinstance(v, ast.Constant) else "X" for v in node.values]
                    yield f"{where}:{node.lineno}", "".join(map(str, parts))
                # A text that begins with an option declares it.
                elif (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in skipped
                    and not node.value.startswith("-")
                ):
                    yield f"{where}:{node.lineno}", node.value


def faults(where: str, text: str) -> list[str]:
    """What a message names that is not there."""
    text = FOREIGN.sub(lambda found: " " if found[0][0] != "(" else found[0], text)
    found = [f"no command {word!r}" for word in CALL.findall(text) if word not in FIRST_WORDS]
    for command, rest in USE.findall(text):
        found += [
            f"{command} has no {o}" for o in OPTION.findall(rest) if o not in OPTIONS[command]
        ]
    readers = READERS[max((p for p in READERS if where.startswith(p)), key=len)]
    for option in OPTION.findall(USE.sub(" ", text)):
        missing = [name for name in readers if option not in OPTIONS[name]]
        if not any(option in some for some in OPTIONS.values()):
            found.append(f"no command has {option}")
        # Where the source comes from a manifest, the message says what to write there.
        elif missing and "(in a manifest:" not in text:
            found.append(f"{option} does not exist for {', '.join(missing)}")
    return found


def test_every_advice_can_be_followed():
    wrong = [
        f"{where}: {fault}: {text}" for where, text in messages() for fault in faults(where, text)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("where", "text", "said"),
    [
        ("pipeline/utils/files.py", "make room or choose another --store", "does not exist for"),
        ("detectors/training/fit.py", "run `train --speed` first", "train has no --speed"),
        ("detectors/training/fit.py", "next anomalysmith fly --now", "no command 'fly'"),
        ("flows/commands/train.py", "choose another --strength", "no command has --strength"),
        ("detectors/training/fit.py", "use --set steps=1", ""),
        ("pipeline/utils/files.py", "choose another `generate --store`", ""),
    ],
)
def test_the_check_finds_what_it_should(where, text, said):
    found = faults(where, text)
    assert said in " ".join(found) if said else not found


def test_the_scan_sees_the_messages():
    texts = [text for _, text in messages()]
    assert any("anomalysmith evaluate --checkpoint" in text for text in texts)
    assert sum(bool(OPTION.search(text)) for text in texts) > 30
