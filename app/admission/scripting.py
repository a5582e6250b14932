"""Admission's Lua scripts: each is what all of them share, and then its own part."""

from __future__ import annotations

from importlib.resources import files

from app.storage.redis import Script


def load(*names: str) -> list[Script]:
    """The scripts of these names."""
    folder = files("app.admission") / "scripts"
    common = (folder / "common.lua").read_text(encoding="utf-8")
    return [Script(common + (folder / f"{name}.lua").read_text(encoding="utf-8")) for name in names]
