from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.data.engine import Engine, LocalEngine, RayEngine
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # Ray sets its own deprecated options
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Ray leaves its log files to the collector
def test_engines_give_identical_datasets(url: str, tmp_path: Path) -> None:
    """One process, two processes and Ray Data: every file of the dataset is the same, byte by byte."""
    settings = recipe(url, rows_per_part=100)
    run_recipe(settings, tmp_path / "one")
    with LocalEngine(2) as local:
        run_recipe(settings, tmp_path / "two", local)
    with RayEngine(cpus=1) as ray:
        run_recipe(settings, tmp_path / "ray", ray)
    assert _files(tmp_path / "two") == _files(tmp_path / "one")
    assert _files(tmp_path / "ray") == _files(tmp_path / "one")


def _fail(index: int) -> int:
    if index == 3:
        raise ValueError("no such part")
    return index


def test_a_failed_part_fails_the_run() -> None:
    """An error of a worker process comes to the caller."""
    engines: Iterator[Engine] = iter((LocalEngine(), LocalEngine(2)))
    for engine in engines:
        assert isinstance(engine, LocalEngine)
        with engine, pytest.raises(ValueError, match="no such part"):
            list(engine.run(_fail, range(10)))
