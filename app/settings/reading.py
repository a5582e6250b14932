"""Reads the file and the environment; what is wrong is said with its file and line, or its variable, and the field."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.settings.agreement import disagreements
from app.settings.document import Document, SettingsError, dotted, read
from app.settings.names import Named, Place, meant, named, variable_of
from app.settings.root import Settings


def load(path: Path | None = None) -> Settings:
    """Read `path` (default: `tunegate.yaml` here, or TUNEGATE_CONFIG, if there) and the environment.

    Raises SettingsError that names file and line, or variable, and field for everything that is wrong, all at once.
    No message holds a value that may be a secret.
    """
    chosen = path or Path(os.environ.get("TUNEGATE_CONFIG", "tunegate.yaml"))
    absent = path is None and "TUNEGATE_CONFIG" not in os.environ and not chosen.exists()
    given, unknown = named(os.environ)
    sources = _Sources(Document() if absent else read(chosen), given, os.environ)
    problems = [*(_unknown(variable) for variable in unknown), *sources.bad_json()]
    if problems:
        raise SettingsError("\n".join(problems))
    try:
        settings = Settings(**sources.document.values)
    except ValidationError as exc:
        raise SettingsError("\n".join(sources.says(error) for error in exc.errors())) from None
    problems = [sources.at(place, message) for place, message in disagreements(settings)]
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _unknown(variable: str) -> str:
    known = meant(variable)
    advice = "docs/configuration.md lists the names" if known is None else f"did you mean {known}?"
    return f"{variable}: unknown setting; {advice}"


@dataclass(frozen=True, slots=True)
class _Sources:
    """Where values came from: the file's lines, and the variables over it."""

    document: Document
    given: list[Named]
    environment: Mapping[str, str]

    def bad_json(self) -> Iterator[str]:
        """What is said of variables that must be JSON and are not."""
        for setting in self.given:
            if setting.is_json:
                try:
                    json.loads(self.environment[setting.variable])
                except (ValueError, RecursionError) as exc:
                    found = exc.msg if isinstance(exc, json.JSONDecodeError) else "nested too deeply"
                    yield f"{setting.variable}: expected JSON: {found[0].lower()}{found[1:]}{_plugin(setting)}"

    def says(self, error: Any) -> str:
        """One of the library's findings as a line."""
        message = "unknown setting" if error["type"] == "extra_forbidden" else error["msg"]
        place = tuple(error["loc"])
        return self.at(place, message.removeprefix("Value error, "), missing=error["type"] == "missing")

    def at(self, place: Place, message: str, *, missing: bool = False) -> str:
        """A message with the place it is about, named by whoever gave it: the environment wins over the file."""
        setting = self._setting(place)
        if setting is not None:
            inside = dotted(place[len(setting.place) :])
            return f"{setting.variable}: {f'{inside}: ' if inside else ''}{message}"
        known = place
        while known and known not in self.document.lines:
            known = known[:-1]
        if missing and any(setting.place[: len(place) - 1] == place[:-1] for setting in self.given):
            return f"{variable_of(place)}: {message}"  # its neighbours are given by the environment
        if known:
            return f"{self.document.path}:{self.document.lines[known]}: {dotted(place)}: {message}"
        return f"{dotted(place)}: {message}"

    def _setting(self, place: Place) -> Named | None:
        """The variable that gave what is at this place."""
        for length in range(len(place), 0, -1):
            for setting in self.given:
                if setting.place == place[:length] and (length == len(place) or self._holds(setting, place[length])):
                    return setting
        return None

    def _holds(self, setting: Named, part: str | int) -> bool:
        value = json.loads(self.environment[setting.variable]) if setting.is_json else None
        return isinstance(value, list) or (isinstance(value, dict) and part in value)


def _plugin(setting: Named) -> str:
    if setting.place != ("adapters",):
        return ""
    return " (vLLM's plugin has a variable of this name: give that to vLLM's process alone)"
