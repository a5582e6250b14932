"""Writes docs/configuration.md from `app.settings`: `python -m app.cli.configuration > docs/configuration.md`.

A setting that is not described, or a page that is older than the settings, fails tests/deploy/test_docs.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import AliasChoices, BaseModel, SecretStr
from pydantic.fields import FieldInfo

from app.settings import Settings

UNITS = {
    "_seconds": "seconds",
    "_ms": "milliseconds",
    "_bytes": "bytes",
    "_tokens": "tokens",
    "_usd_per_mtok": "USD per million tokens",
    "_ratio": "share, 0 to 1",
    "port": "TCP port",
}
NAMES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "folder",
    date: "date",
    SecretStr: "secret",
}
PATTERNS = {
    "^https?://": "http:// or https:// address",
    "^(https?://": "http://, https://, dns:// or k8s:// address",
    "^[a-z0-9]": "name of a-z, 0-9 and -",
    "^[0-9a-fA-F]": "64 hexadecimal digits",
    "^/": "absolute path",
}
BOUNDS = ((Ge, "ge", "at least"), (Gt, "gt", "more than"), (Le, "le", "at most"), (Lt, "lt", "less than"))
HEAD = """\
# Configuration

<!-- Written by `python -m app.cli.configuration`; change the descriptions in app/settings/ instead. -->

Tunegate runs without any configuration: Redis, SQL and objects are then embedded in one data folder. What you change
stands in `tunegate.yaml` (in the working folder, or named by `TUNEGATE_CONFIG` or `--config`) or in the environment,
which wins. An environment name is `TUNEGATE_` and the path with double underscores; values of lists and tables are
JSON. The names that the platform world already uses (`REDIS_URL`, `DATABASE_URL`, `OPENAI_API_KEY`, `OPENAI_BASE_URL`,
`VLLM_URLS`) work as they are. An unknown or impossible setting stops the start with its file, line and field, or with
its variable. That holds for every `TUNEGATE_` name but those that Kubernetes makes of a Service's name.

```yaml
server:
  port: 8000
pools:
  - name: vllm
    replicas: [http://vllm-0:8000, http://vllm-1:8000]
    max_loras: 8
    max_cpu_loras: 64
providers:
  - name: openai
    base_url: https://api.openai.com/v1 # its key: OPENAI_API_KEY in the environment
prices:
  models:
    openai/gpt-4o-mini: { input_usd_per_mtok: 0.15, output_usd_per_mtok: 0.60 }
    vllm/*: { input_usd_per_mtok: 0.10, output_usd_per_mtok: 0.40 }
```

Secrets (`admin_key`, `database_url`, every `api_key`) are never printed or logged; give them as environment. The trace
exporter also reads OpenTelemetry's own `OTEL_EXPORTER_OTLP_HEADERS` and `OTEL_RESOURCE_ATTRIBUTES`.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as the page shows it."""

    path: str
    kind: str
    unit: str
    default: str
    environment: str
    says: str

    def line(self) -> str:
        """A row of the table."""
        cells = (f"`{self.path}`", self.kind, self.unit, self.default, self.environment, self.says)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, says, rows in sections():
        table = "\n".join(row.line() for row in rows)
        header = "| setting | value | unit | default | environment | meaning |\n|---|---|---|---|---|---|"
        parts.append(f"## {title}\n\n{says}\n\n{header}\n{table}\n")
    return "\n".join(parts)


def sections() -> Iterator[tuple[str, str, list[Row]]]:
    """Top-level settings first, then each section: title, sentence, rows."""
    plain = [_row((), name, field) for name, field in Settings.model_fields.items() if _model(field) is None]
    yield "At the top", "Stores, the admin API, and what common environment names add.", plain
    for name, field in Settings.model_fields.items():
        model = _model(field)
        if model is not None:
            yield from _section(name, field, model)


def _section(name: str, field: FieldInfo, model: type[BaseModel]) -> Iterator[tuple[str, str, list[Row]]]:
    listed = get_origin(field.annotation) is list
    says = (model.__doc__ or "").strip()
    if listed:
        says += f" A list; as environment `TUNEGATE_{name.upper()}` holds it whole, as JSON."
    yield f"`{name}`", says, list(_rows((f"{name}[]",) if listed else (name,), model))


def _rows(path: tuple[str, ...], model: type[BaseModel], given: BaseModel | None = None) -> Iterator[Row]:
    """The settings of a section; `given` is the section's own default, which knows better than its fields."""
    for name, field in model.model_fields.items():
        inner = _model(field)
        if inner is None:
            yield _row(path, name, field, getattr(given, name, None))
        elif get_origin(field.annotation) is dict:
            table = ".".join((*path, f"{name}.<name>"))
            yield Row(table, "table", "", "empty", "", field.description or "")
            yield from _rows((*path, f"{name}.<name>"), inner)
        elif get_origin(field.annotation) is list:
            listed = ".".join((*path, f"{name}[]"))
            yield Row(listed, "list", "", "empty", "", field.description or "")
            yield from _rows((*path, f"{name}[]"), inner)
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
            for row in _rows((*path, name), inner, default):
                yield replace(row, says=f"{field.description} {row.says}")


def _row(path: tuple[str, ...], name: str, field: FieldInfo, given: Any = None) -> Row:
    full = ".".join((*path, name))
    return Row(
        path=full,
        kind=_kind(field),
        unit=next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), ""),
        default=_default(field, given),
        environment=_environment(full, field),
        says=field.description or "",
    )


def _environment(path: str, field: FieldInfo) -> str:
    alias = field.validation_alias
    if isinstance(alias, AliasChoices):
        return f"`{alias.choices[-1]}`"
    if "[]" in path or "<name>" in path:
        return ""
    return f"`TUNEGATE_{path.replace('.', '__').upper()}`"


def _default(field: FieldInfo, given: Any) -> str:
    if field.is_required() and given is None:
        return "required"
    value = given if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{shown}`" if shown else "empty"


def _kind(field: FieldInfo) -> str:
    return ", ".join([_special(field.metadata) or _type(field.annotation), *_bounds(field.metadata)])


def _type(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in args)
    if origin is list:
        return f"list of {_type(args[0])}"
    if origin is Annotated:
        return _special([constraint for given in args[1:] for constraint in getattr(given, "metadata", [])]) or _type(
            args[0]
        )
    if NoneType in args:
        return _type(next(arg for arg in args if arg is not NoneType))
    return NAMES[annotation]


def _special(metadata: list[Any]) -> str | None:
    """What the pattern of a text stands for."""
    patterns = [str(getattr(constraint, "pattern", None)) for constraint in metadata]
    return next((says for start, says in PATTERNS.items() if any(found.startswith(start) for found in patterns)), None)


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for constraint in metadata:
        for kind, attribute, says in BOUNDS:
            if isinstance(constraint, kind):
                yield f"{says} {getattr(constraint, attribute):,}".replace(",", " ")
        if isinstance(constraint, MinLen):
            yield f"at least {constraint.min_length}"


def _model(field: FieldInfo) -> type[BaseModel] | None:
    """The model that this field holds, lists or maps; None for a plain value."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


if __name__ == "__main__":
    sys.stdout.write(page())
