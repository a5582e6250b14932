"""The YAML file as values, and the line of each; what YAML lets pass (a key twice, a number as a key) is refused.

No problem quotes a value: it may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from app.settings.names import Place

_TEXT = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"
_QUOTED = re.compile(r"'[^'<]{2,}'")


class SettingsError(Exception):
    """The configuration cannot be used; the text names the file and line, or the variable, and the field."""


@dataclass(frozen=True, slots=True)
class Document:
    """What a file says."""

    path: Path | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[Place, int] = field(default_factory=dict)


def read(path: Path) -> Document:
    """The file; raises SettingsError that names every problem's line."""
    text = _text(path)
    try:
        return _parsed(path, yaml.SafeLoader(text))
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        problem = _QUOTED.sub("…", exc.problem or "unclear")
        raise SettingsError(f"{path}:{line}: not YAML: {problem}") from None
    except yaml.reader.ReaderError as exc:
        line = text.count("\n", 0, exc.position) + 1
        raise SettingsError(f"{path}:{line}: not YAML: it holds the control character U+{exc.character:04X}") from None
    except RecursionError:
        raise SettingsError(f"{path}:1: not settings: nested too deeply") from None


def _parsed(path: Path, loader: yaml.SafeLoader) -> Document:
    node = loader.get_single_node()
    if node is None:
        return Document(path)
    if not isinstance(node, yaml.MappingNode):
        raise SettingsError(f"{path}:1: expected a mapping of settings at the top")
    walk = _Walk(path, loader)
    walk.into(node, ())
    if walk.problems:
        raise SettingsError("\n".join(walk.problems))
    return Document(path, loader.construct_document(node), walk.lines)


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SettingsError(
            f"{path}: cannot be read ({exc.strerror}); give --config or remove TUNEGATE_CONFIG"
        ) from exc
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise SettingsError(f"{path}:{line}: expected UTF-8, found the byte 0x{data[exc.start]:02x}") from None


class _Walk:
    """Notes the line of every place, and what is wrong with keys and single values."""

    def __init__(self, path: Path, loader: yaml.SafeLoader) -> None:
        self.lines: dict[Place, int] = {}
        self.problems: list[str] = []
        self._path = path
        self._loader = loader
        self._seen: set[int] = set()

    def into(self, node: yaml.Node, place: Place) -> None:
        """Look at this node and all in it; one that is used again (an alias) is not looked at again."""
        self.lines.setdefault(place, node.start_mark.line + 1)
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._entries(node, place)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self.into(value, (*place, index))
        elif node.tag != _TEXT:
            self._value(node, place)

    def _entries(self, node: yaml.MappingNode, place: Place) -> None:
        given: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            inner = (*place, str(key.value) if isinstance(key, yaml.ScalarNode) else "…")
            if key.tag not in (_TEXT, _MERGE):
                self._problem(line, inner, "expected a name, not a number or the like; put it in quotes if it is one")
            elif key.value in given:
                self._problem(line, inner, f"given twice, the first time in line {given[key.value]}; keep one of them")
            else:
                given[key.value] = line
                self.lines.setdefault(inner, line)
                self.into(value, inner)

    def _value(self, node: yaml.Node, place: Place) -> None:
        try:
            self._loader.construct_object(node)
        except ValueError:
            self._problem(
                node.start_mark.line + 1,
                place,
                "no such number or date; put it in quotes if it is text",
            )

    def _problem(self, line: int, place: Place, says: str) -> None:
        self.problems.append(f"{self._path}:{line}: {dotted(place)}: {says}")


def dotted(place: Place) -> str:
    """A place as people write it."""
    return ".".join(str(part) for part in place)
