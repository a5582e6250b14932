"""Environment names of settings: which there are, which belong to others, and what a misspelled one was meant to be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import AliasChoices, BaseModel
from pydantic.fields import FieldInfo

from app.settings.root import Settings

Place = tuple[str | int, ...]

PREFIX = "TUNEGATE_"
NOT_SETTINGS = frozenset(
    {
        "TUNEGATE_CONFIG",  # which file the settings are in
        "TUNEGATE_URL",  # the admin commands' gateway
        "TUNEGATE_API_KEY",  # the trainer's and the data commands' key
        "TUNEGATE_ADAPTERS_URL",  # the vLLM plugin's; its TUNEGATE_ADAPTERS is also the name of a section here
        "TUNEGATE_ADAPTERS_MAX_BYTES",
        "TUNEGATE_VLLM_PYTHON",  # the tests' vLLM
    }
)
# What Kubernetes (and Docker's links) tell a container of a Service whose name begins with `tunegate`.
_SERVICE = re.compile(
    r"TUNEGATE(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
_SERVICE_PORT = re.compile(r"TUNEGATE(_\w+)?_PORT")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Named:
    """A setting that the environment gives: its variable, its place, and whether its value is JSON."""

    variable: str
    place: Place
    is_json: bool


def named(environment: Mapping[str, str]) -> tuple[list[Named], list[str]]:
    """The settings that the environment gives, and the TUNEGATE_* names in it that mean nothing to anybody."""
    found, unknown = [], []
    for variable, value in sorted(environment.items()):
        name = variable.upper()
        setting = _aliased(variable) or _nested(variable)
        if setting is not None:
            found.append(setting)
        elif name.startswith(PREFIX) and name not in NOT_SETTINGS and not _of_kubernetes(name, value):
            unknown.append(variable)
    return found, unknown


def meant(variable: str) -> str | None:
    """The known name that a misspelled one is nearest to."""
    names = dict(_all())
    rest = variable.upper().removeprefix(PREFIX)
    plain = {name.replace("_", ""): known for name, known in names.items()}
    if rest.replace("_", "") in plain:
        return plain[rest.replace("_", "")]
    ends = [known for name, known in names.items() if name.endswith(f"__{rest}")]
    if len(ends) == 1:
        return ends[0]
    near = get_close_matches(rest, names, n=1)
    return names[near[0]] if near else None


def variable_of(place: Place) -> str:
    """The environment name of a place in the settings."""
    return PREFIX + "__".join(str(part) for part in place).upper()


def _of_kubernetes(name: str, value: str) -> bool:
    if _SERVICE.fullmatch(name):
        return True
    return _SERVICE_PORT.fullmatch(name) is not None and _SERVICE_ADDRESS.match(value) is not None


def _aliased(variable: str) -> Named | None:
    """A setting whose variable has a name of its own, such as REDIS_URL."""
    for field_name, field in Settings.model_fields.items():
        if variable.lower() in (choice.lower() for choice in _choices(field)):
            return Named(variable, (field_name,), is_json=False)
    return None


def _nested(variable: str) -> Named | None:
    """A setting whose variable is TUNEGATE_ and its path."""
    if not variable.upper().startswith(PREFIX):
        return None
    parts = variable[len(PREFIX) :].lower().split("__")
    first = Settings.model_fields.get(parts[0])
    if first is None or first.validation_alias is not None:
        return None
    kind: Any = first.annotation
    for part in parts[1:]:
        kind = _inside(kind, part)
        if kind is None:
            return None
    return Named(variable, tuple(parts), is_json=_model(kind) is not None or get_origin(kind) in (list, dict))


def _inside(kind: Any, part: str) -> Any:
    """The annotation of what `part` names in a section or a table; None where there is no such thing."""
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    model = None if get_origin(kind) is list else _model(kind)
    field = model.model_fields.get(part) if model is not None else None
    return None if field is None else field.annotation


def _all() -> Iterator[tuple[str, str]]:
    """Every name without its prefix as its path would have it, and as it is."""
    for name in NOT_SETTINGS:
        yield name.removeprefix(PREFIX), name
    for name, field in Settings.model_fields.items():
        choices = _choices(field)
        if choices:
            yield name.upper(), choices[-1]
        else:
            for path in _paths((name,), field.annotation):
                yield variable_of(path).removeprefix(PREFIX), variable_of(path)


def _paths(path: tuple[str, ...], kind: Any) -> Iterator[tuple[str, ...]]:
    model = None if get_origin(kind) in (list, dict) else _model(kind)
    if model is None:
        yield path
        return
    for name, field in model.model_fields.items():
        yield from _paths((*path, name), field.annotation)


def _choices(field: FieldInfo) -> list[str]:
    alias = field.validation_alias
    return [str(choice) for choice in alias.choices] if isinstance(alias, AliasChoices) else []


def _model(kind: Any) -> type[BaseModel] | None:
    """The section that this annotation means, alone or beside None."""
    for candidate in (kind, *get_args(kind)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
