"""The documentation against the code: no stale page, no undocumented setting, no example that cannot work."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

from adapters.cli import app as sidecar
from app.cli.configuration import Row, page, sections
from app.cli.main import app as cli
from app.settings import load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
TOOLS = {
    "adapters",
    "docker",
    "kubectl",
    "promtool",
    "make",
    "tunegate",
    "pip",
    "python",
    "curl",
    "git",
    "sh",
    "openssl",
    "echo",
}

CLIS = {"tunegate": cli, "adapters": sidecar}


@dataclass(frozen=True)
class Example:
    """One fenced block."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        first = self.text.strip().splitlines()[0] if self.text.strip() else ""
        return f"{self.page.name}: {first[:40]}"


def examples(*languages: str) -> list[Example]:
    """Every fenced block in one of these languages."""
    return list(_examples(languages))


def _examples(languages: tuple[str, ...]) -> Iterator[Example]:
    for path in PAGES:
        for indent, language, text in FENCE.findall(path.read_text(encoding="utf-8")):
            if language in languages:
                yield Example(path, language, "\n".join(line.removeprefix(indent) for line in text.splitlines()))


def rows() -> list[Row]:
    """Every setting."""
    return [row for _, _, found in sections() for row in found]


def test_the_configuration_page_is_fresh() -> None:
    """It is what the settings say today; else write it again."""
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == page(), "run: .venv/bin/python -m app.cli.configuration > docs/configuration.md"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.path)
def test_every_setting_is_described(row: Row) -> None:
    """A sentence that ends, and a way to set it; what is a quantity names its unit."""
    assert re.search(r"[.)]$", row.says), row.path
    assert row.environment or "[]" in row.path or "<name>" in row.path
    if re.search(r"time|grace|age|bytes", row.path.rsplit(".", 1)[-1]):
        assert row.unit, f"{row.path} has no unit in its name"


ADDRESSES = {"redis_url": "redis://there.example:1/0", "database_url": "postgresql://u:p@there.example:1/there"}


def possible(kind: str) -> str:
    """A value that a setting of this kind takes, and that is no default."""
    if "number" in kind:
        lowest = re.search(r"at least ([\d ]+)", kind)
        return str(max(1, int(lowest[1].replace(" ", "")))) if lowest else "1"
    if kind.startswith("`"):
        return kind.split("`")[-2]
    known = {"true or false": "false", "folder": "/elsewhere", "name of a-z, 0-9 and -": "there"}
    return known.get(kind, "http://there.example:1")


@pytest.mark.parametrize("row", [row for row in rows() if row.environment], ids=lambda row: row.path)
def test_every_environment_name_is_read(row: Row, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A value under the documented name arrives at the documented setting."""
    (tmp_path / "empty.yaml").write_text("", encoding="utf-8")
    value = ADDRESSES.get(row.path) or possible(row.kind)
    section = row.path.rpartition(".")[0]
    together = [
        other for other in rows() if section in ("prices.default", "cache.embedder") and other.path.startswith(section)
    ]
    for other in together:  # one price is no price: all are given or none
        monkeypatch.setenv(other.environment.strip("`"), "7")
    monkeypatch.setenv(row.environment.strip("`"), value)
    found: object = load(tmp_path / "empty.yaml")
    for part in row.path.split("."):
        found = getattr(found, part)
    plain = getattr(found, "get_secret_value", lambda: found)()
    same = float(str(plain)) == float(value) if "number" in row.kind else str(plain).lower() == value
    assert same, f"{row.environment}={value} made {row.path} {plain}"


@pytest.mark.parametrize("example", examples("python"), ids=str)
def test_python_examples_are_python(example: Example) -> None:
    """They compile."""
    ast.parse(example.text)


@pytest.mark.parametrize("example", examples("yaml", "json"), ids=str)
def test_yaml_examples_load(example: Example) -> None:
    """They load, and one that looks like settings is accepted as settings."""
    values = yaml.safe_load(example.text)
    assert values is not None


def test_the_configuration_example_is_accepted(tmp_path: Path) -> None:
    """The example at the head of the page is a working file."""
    (example,) = [one for one in examples("yaml") if one.page.name == "configuration.md"]
    path = tmp_path / "tunegate.yaml"
    path.write_text(example.text, encoding="utf-8")
    assert load(path).all_pools()["vllm"].max_loras == 8


def commands() -> list[tuple[Example, list[str]]]:
    """Every command line of every shell example, as words."""
    found = []
    for example in examples("sh", "bash", "shell", "console"):
        for line in example.text.replace("\\\n", " ").replace("|\n", "| ").splitlines():
            for words in _piped(shlex.split(line, comments=True)):
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    found.append((example, words))
    return found


def _piped(words: list[str]) -> list[list[str]]:
    """The commands of one line, apart."""
    apart: list[list[str]] = [[]]
    for word in words:
        apart.append([]) if word == "|" else apart[-1].append(word)
    return apart


@pytest.mark.parametrize(("example", "words"), commands(), ids=[f"{one}-{words[0]}" for one, words in commands()])
def test_shell_examples_name_what_exists(example: Example, words: list[str]) -> None:
    """Programs are known ones; make's targets, our verbs and options, and files of the repository exist."""
    program = words[0].removeprefix(".venv/bin/")
    assert program in TOOLS, f"{example}: {words[0]}"
    if program == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        assert {word for word in words[1:] if "=" not in word} <= targets
    if program in CLIS:
        _check_verb(CLIS[program], words[1:])
    for word in words[1:]:
        if re.match(r"(k8s|grafana|docs|app|tests|benchmarks)/", word):
            assert (ROOT / word).exists(), word


def _check_verb(app: typer.Typer, words: list[str]) -> None:
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if getattr(command, "invoke_without_command", False) and not (words and words[0] in command.commands):
            break  # the group is a verb itself, such as `usage`
        assert words, f"a verb is missing after {command.name}"
        assert words[0] in command.commands, f"no verb {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    options = {flag for parameter in command.params for flag in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options | {"--help"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Relative links name files of the repository, and their anchors a heading there."""
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{path.name}: {target}"
