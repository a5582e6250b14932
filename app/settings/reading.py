"""Reads the file and the environment; what is wrong is said with its file, line and field."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from app.settings.root import Settings


class SettingsError(Exception):
    """The configuration cannot be used; the text names the file, the line and the field."""


def load(path: Path | None = None) -> Settings:
    """Read `path` (default: `tunegate.yaml` here, or TUNEGATE_CONFIG, if there) and the environment.

    Raises SettingsError that names file, line and field for everything that is wrong, all at once.
    """
    chosen = path or Path(os.environ.get("TUNEGATE_CONFIG", "tunegate.yaml"))
    if path is None and "TUNEGATE_CONFIG" not in os.environ and not chosen.exists():
        values: Mapping[str, Any] = {}
        lines: dict[tuple[str | int, ...], int] = {}
    else:
        values, lines = _read(chosen)
    try:
        return Settings(**values)
    except ValidationError as exc:
        raise SettingsError("\n".join(_explain(chosen, lines, error) for error in exc.errors())) from None


def _read(path: Path) -> tuple[Mapping[str, Any], dict[tuple[str | int, ...], int]]:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(
            f"{path}: cannot be read ({exc.strerror}); give --config or remove TUNEGATE_CONFIG"
        ) from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise SettingsError(f"{path}:{line}: not YAML: {exc.problem}") from exc
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}:1: expected a mapping of settings at the top")
    lines: dict[tuple[str | int, ...], int] = {}
    if node is not None:
        _mark(node, (), lines)
    return values, lines


def _mark(node: yaml.Node, place: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> None:
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value))
            lines[inner] = key.start_mark.line + 1
            _mark(value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _mark(value, (*place, index), lines)


def _explain(path: Path, lines: Mapping[tuple[str | int, ...], int], error: Any) -> str:
    place = tuple(error["loc"])
    field = ".".join(str(part) for part in place)
    message = "unknown setting" if error["type"] == "extra_forbidden" else error["msg"]
    known = place
    while known and known not in lines:
        known = known[:-1]
    if known and (known == place or error["type"] == "missing"):
        return f"{path}:{lines[known]}: {field}: {message}"
    return f"environment or {path}: {field}: {message}"
