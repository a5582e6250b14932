from __future__ import annotations

from pathlib import Path

import pytest

from adapters.data.engine import LocalEngine, RayEngine
from adapters.errors import StorageFullError
from tests.adapters.data.conftest import run_recipe
from tests.adapters.data.proof import recipe
from tests.adapters.data.support_db import SupportDatabase


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small support database."""
    url = f"sqlite:///{tmp_path_factory.mktemp('db')}/support.db"
    SupportDatabase(400).write(url)
    return url


def _files(folder: Path) -> dict[str, bytes]:
    (dataset,) = (folder / "datasets").iterdir()
    return {path.name: path.read_bytes() for path in dataset.iterdir()}


def _full(index: int) -> int:
    if index == 3:
        raise StorageFullError("the disk is full")
    return index


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray sets its own deprecated options
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves its log files to the collector
def test_engines_give_identical_datasets(url: str, tmp_path: Path) -> None:
    """One process, two processes and Ray Data: every file is the same, byte by byte; an error comes as its own kind."""
    settings = recipe(url, rows_per_part=100)
    run_recipe(settings, tmp_path / "one")
    with LocalEngine(2) as local:
        run_recipe(settings, tmp_path / "two", local)
    with RayEngine(cpus=1) as ray:
        run_recipe(settings, tmp_path / "ray", ray)
        with pytest.raises(StorageFullError, match="the disk is full"):
            list(ray.run(_full, range(4)))
    assert _files(tmp_path / "two") == _files(tmp_path / "one")
    assert _files(tmp_path / "ray") == _files(tmp_path / "one")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failed_part_fails_the_run(workers: int) -> None:
    """An error of a worker process comes to the caller as what it is."""
    with LocalEngine(workers) as engine, pytest.raises(StorageFullError, match="the disk is full"):
        list(engine.run(_full, range(10)))
