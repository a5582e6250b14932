"""A support database prepared once for the tests that look at the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from adapters.data.engine import Engine, LocalEngine
from adapters.data.stage import Silent
from adapters.data.workspace import open_workspace
from adapters.pipeline import Preparation, prepare
from adapters.settings import DataSettings
from adapters.types import DatasetManifest
from tests.adapters.data.proof import recipe
from tests.adapters.data.support_db import NOW, Planted, SupportDatabase

ROWS = 2_500
Run = Callable[..., DatasetManifest]


def run_recipe(settings: DataSettings, home: Path, engine: Engine | None = None) -> DatasetManifest:
    """Prepare a dataset at the fixed instant of the support database."""
    now = NOW.timestamp()
    with open_workspace(home, settings.redaction) as workspace:
        return prepare(Preparation(settings, workspace, engine or LocalEngine(), Silent(), now, now))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A database, what was planted in it, and the dataset made of it."""

    url: str
    planted: Planted
    settings: DataSettings
    home: Path
    manifest: DatasetManifest

    @property
    def folder(self) -> Path:
        """The dataset version's folder."""
        return self.home / "datasets" / self.manifest.version


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key of stand-ins, so that two work folders give the same texts."""
    monkeypatch.setenv("ADAPTERS_REDACTION_KEY", "a key for tests")


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The messy support database in SQLite, prepared in this process."""
    folder = tmp_path_factory.mktemp("support")
    url = f"sqlite:///{folder}/support.db"
    database = SupportDatabase(ROWS)
    database.write(url)
    settings = recipe(url, rows_per_part=700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERS_REDACTION_KEY", "a key for tests")
        manifest = run_recipe(settings, folder / "work")
    return Prepared(url, database.planted, settings, folder / "work", manifest)
