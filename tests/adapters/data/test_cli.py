from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from adapters.cli import main
from adapters.cli.progress import shown
from adapters.errors import ConfigurationError
from adapters.settings import DataSettings, load
from tests.adapters.data.conftest import Prepared, run_recipe
from tests.adapters.data.fake_openai import FakeOpenAI, serving


def _run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["adapters", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _answer(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def _recipe(folder: Path, rows: int = 30, **changes: object) -> Path:
    words = [chr(97 + n % 26) * (2 + n // 26) + "zyx"[n % 3] * 4 for n in range(rows)]
    lines = [{"messages": [_user(f"{word * 3} how do I do {word}"), _answer(f"Do {word} now.")]} for word in words]
    (folder / "chats.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    recipe = {"name": "small", "sources": [{"kind": "jsonl", "path": "chats.jsonl"}], **changes}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_help_loads_no_library() -> None:
    """`--help` imports nothing heavy, whatever is installed."""
    heavy = (
        "numpy",
        "presidio_analyzer",
        "spacy",
        "datasketch",
        "ray",
        "pyarrow",
        "sqlalchemy",
        "openai",
        "torch",
        "pydantic",
    )
    code = f"import sys, adapters.cli; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"


def test_prepare_verify_and_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verbs from a recipe to a checked dataset; progress is on standard error, and plain when it is no terminal."""
    home = tmp_path / "work"
    words = ("prepare", str(_recipe(tmp_path)), "--home", str(home), "--workers", "1")
    assert _run(monkeypatch, *words, "--json") == 0
    captured = capsys.readouterr()
    manifest = json.loads(captured.out)
    assert "adapters: redact (1 parts)" in captured.err
    assert "\x1b" not in captured.err
    folder = home / "datasets" / manifest["version"]
    assert _run(monkeypatch, "verify", str(folder)) == 0
    assert _run(monkeypatch, "report", str(folder)) == 0
    shown = capsys.readouterr().out
    assert f"{manifest['version']}: too few" in shown
    assert "warning: " in shown
    assert _run(monkeypatch, *words) == 0
    assert f"{manifest['version']}: {manifest['rows']} of 30 rows" in capsys.readouterr().out
    assert _run(monkeypatch, *words, "--until", "redact") == 0
    assert "stages/redact-" in capsys.readouterr().out
    assert _run(monkeypatch, "sweep", str(tmp_path / "recipe.yaml"), "--home", str(home)) == 0
    assert not (home / "stages").exists()
    assert _run(monkeypatch, "verify", str(folder)) == 0


def test_check_names_the_broken_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A broken file ends with code 2 and its first rows, a good one with 0."""
    _recipe(tmp_path)
    assert _run(monkeypatch, "check", str(tmp_path / "chats.jsonl")) == 0
    with (tmp_path / "chats.jsonl").open("a") as file:
        file.write('{"messages": []}\n')
    assert _run(monkeypatch, "check", str(tmp_path / "chats.jsonl")) == 2
    assert "chats.jsonl:31: messages: messages_empty" in capsys.readouterr().err


def test_too_few_examples_are_refused_with_the_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is registered, and the message says what cost most."""
    home = tmp_path / "work"
    assert _run(monkeypatch, "prepare", str(_recipe(tmp_path, rows=4)), "--home", str(home), "--workers", "1") == 2
    assert "at least 10 are needed" in capsys.readouterr().err
    assert not (home / "datasets").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("{name: x, sources: []}", "sources: "),
        ("{name: x, sources: [{kind: sql}]}", "needs `url` and either `query` or `table`"),
        ("{name: x, sources: [{kind: sql, url: u, table: t}]}", "needs `columns.id`"),
        ("{name: x, sources: [{kind: csv, path: p, shape: ticket}]}", "`columns.question`, `columns.answer`"),
        ("{name: x, sources: [{kind: csv}]}", "needs `path`"),
        ("{name: x, sources: [{kind: csv, path: p}], typo: 1}", "typo: is not a setting"),
        ("{name: x, sources: [{kind: csv, path: p}], deduplication: {near: 0.5}}", "`group` must not be above `near`"),
        ("{name: X Y, sources: [{kind: csv, path: p}]}", "name: "),
    ],
)
def test_a_recipe_that_cannot_be_used_is_said_in_words(tmp_path: Path, text: str, words: str) -> None:
    """The field is named, and what it must be."""
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert words in str(caught.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "none.yaml")


def test_relative_paths_belong_to_the_recipe(tmp_path: Path) -> None:
    """A recipe can be run from anywhere."""
    assert load(_recipe(tmp_path)).sources[0].path == tmp_path / "chats.jsonl"


def test_the_shipped_recipe_shows_the_defaults() -> None:
    """The commented recipe loads, names every setting, and what it says are the defaults are the defaults."""
    path = Path(__file__).resolve().parents[3] / "adapters" / "data" / "recipes" / "support.yaml"
    shipped, raw = load(path), yaml.safe_load(path.read_text())
    assert shipped == DataSettings(name="support", tenant="acme", sources=shipped.sources)
    sections = {name: section for name, section in raw.items() if isinstance(section, dict)}
    for name, section in sections.items():
        assert set(section) == set(type(getattr(shipped, name)).model_fields), name
    assert len(sections) == 7


def test_every_setting_has_a_description() -> None:
    """What is not described cannot be used."""
    seen: list[type] = [DataSettings]
    for model in seen:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            assert field.description, f"{model.__name__}.{name}"
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            seen += [kind for kind in kinds if hasattr(kind, "model_fields") and kind not in seen]
    assert len(seen) > 10


def test_report_says_what_does_not_fit_in(tmp_path: Path) -> None:
    """An example fifty times as long as the rest is named, and the count is judged against the thresholds."""
    recipe = _recipe(tmp_path, rows=60)
    with (tmp_path / "chats.jsonl").open("a") as file:
        row = {"messages": [_user("what is the opening time"), _answer("We never close. " * 100)]}
        file.write(json.dumps(row) + "\n")
    manifest = run_recipe(load(recipe), tmp_path / "work")
    report = json.loads((tmp_path / "work" / "datasets" / manifest.version / "report.json").read_text())
    assert [row["origin"] for row in report["outliers"]] == ["chats.jsonl:61"]
    assert report["verdict"] == "too few"
    assert any("first chats.jsonl:61" in warning for warning in report["warnings"])


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a stage is a bar that is full in the end; elsewhere it is a line."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, mark in ((Terminal(), "\x1b["), (io.StringIO(), "adapters: clean (2 parts)\n")):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with shown() as progress:
            progress.start("fetch", None)
            progress.advance(1_000)
            progress.start("clean", 2)
            progress.advance(1_000)
            progress.advance(500)
        assert mark in stream.getvalue()
    assert "1,500 rows" not in stream.getvalue()


def test_synthesize_select_and_labels(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verbs around a dataset: from a teacher, from traffic to a queue, and back from the people who labelled."""
    pair = json.dumps({"question": "Something quite new, is it not?", "answer": "It certainly is new."})
    with serving(FakeOpenAI(answer=lambda _: pair)) as fake:
        words = ("--out", str(tmp_path / "made.jsonl"), "--base-url", fake.url, "--model", "teacher", "--count", "1")
        assert _run(monkeypatch, "synthesize", str(prepared.folder), *words) == 0
    assert "written  1" in capsys.readouterr().out
    request = {"messages": [_user("why does it blink all day")]}
    line = {
        "id": "1",
        "consent": True,
        "request": request,
        "response": {"choices": [{"message": _answer("It is fine.")}]},
    }
    (tmp_path / "traffic.jsonl").write_text(json.dumps(line) + "\n")
    picked = (
        "--out",
        str(tmp_path / "queue.jsonl"),
        "--recipe",
        str(_recipe(tmp_path)),
        "--home",
        str(tmp_path / "work"),
    )
    arguments = (str(tmp_path / "traffic.jsonl"), *picked, "--count", "3", "--dataset", str(prepared.folder))
    assert _run(monkeypatch, "select", *arguments) == 0
    queue = json.loads((tmp_path / "queue.jsonl").read_text())
    filled = json.dumps({**queue, "label": "It is updating itself."})
    (tmp_path / "queue.jsonl").write_text(f"{filled}\n{{}}\n")
    assert _run(monkeypatch, "labels", str(tmp_path / "queue.jsonl"), "--out", str(tmp_path / "labelled.jsonl")) == 1
    captured = capsys.readouterr()
    assert "labelled  1" in captured.out
    assert "queue.jsonl:2: line: broken:queue_item" in captured.err
    assert json.loads((tmp_path / "labelled.jsonl").read_text())["id"] == "label:traffic:1"
    assert _run(monkeypatch, "report", str(prepared.folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["version"] == prepared.manifest.version
