from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from adapters.data.dataset import read_manifest
from adapters.data.engine import RayEngine
from adapters.data.files import read_parquet
from adapters.data.fingerprint import signing
from adapters.data.recognizers import build_finder
from adapters.data.report import evenness, verdict
from adapters.data.rows import Outcome
from adapters.data.stage import Silent, open_stage
from adapters.data.storage import replacing
from adapters.data.workspace import open_workspace
from adapters.errors import MissingLibraryError, StageError, StorageFullError
from adapters.settings import Quality, Redaction
from adapters.types import Example, Message, Role
from tests.adapters.data.conftest import Prepared


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    """Two runs never share a work folder; the key of a folder stays."""
    with open_workspace(tmp_path, Redaction(key_env="UNSET")) as first:
        assert first.key == (tmp_path / "redaction.key").read_bytes()
        assert (tmp_path / "redaction.key").stat().st_mode & 0o077 == 0
        with pytest.raises(StageError, match="another run is at work"), open_workspace(tmp_path, Redaction()):
            pass
    with open_workspace(tmp_path, Redaction(key_env="UNSET")) as again:
        assert again.key == first.key


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path: Path) -> None:
    """The real device that is always full, and a file that fails in the middle: no half-written name is left."""
    with pytest.raises(StorageFullError, match="is full; free some space"), replacing(tmp_path / "part") as file:
        _fill(file)
    assert list(tmp_path.iterdir()) == []


def _fill(file: BinaryIO) -> None:
    file.write(b"half")
    with Path("/dev/full").open("wb", buffering=0) as full:
        full.write(b"x")


def test_other_errors_of_the_disk_stay_what_they_are(tmp_path: Path) -> None:
    """Only a full disk is turned into words."""
    with pytest.raises(OSError, match="odd") as caught, replacing(tmp_path / "part"):
        raise OSError(errno.EIO, "odd")
    assert not isinstance(caught.value, StorageFullError)


def test_a_part_without_its_seal_is_written_again(tmp_path: Path) -> None:
    """Rows without a seal, and temporary files, are what a killed writer leaves; the next one sweeps them away."""
    stage = open_stage(tmp_path, "clean", "x")
    stage.part(0).write_bytes(b'{"half')
    (stage.folder / ".part-000000.jsonl.abcd").write_bytes(b"")
    assert stage.seals() == []
    example = Example(id="1", messages=(Message(Role.USER, "hi"),))
    stage.seal(0, Outcome([example]))
    stage.finish()
    assert list(stage.examples()) == [example]
    assert not list(stage.folder.glob(".*"))
    assert open_stage(tmp_path, "clean", "y").folder != stage.folder


def test_an_unfinished_stage_gives_nothing(tmp_path: Path) -> None:
    """Reading a stage before its manifest is a mistake of the caller, and fails."""
    with pytest.raises(FileNotFoundError):
        open_stage(tmp_path, "clean").require()


def test_verdicts_and_evenness() -> None:
    """The thresholds of 10, 100 and 1,000, and Shannon's evenness."""
    rules = Quality()
    assert [verdict(rows, rules) for rows in (9, 10, 99, 100, 999, 1_000)] == [
        "refused", "too few", "too few", "usable", "usable", "good",
    ]  # fmt: skip
    assert evenness([5, 5]) == 1.0
    assert evenness([5]) == 1.0
    assert 0 < evenness([99, 1]) < 0.1


def test_read_manifest_needs_a_dataset(prepared: Prepared, tmp_path: Path) -> None:
    """A folder that is none is said in words."""
    assert read_manifest(prepared.folder) == prepared.manifest
    with pytest.raises(StageError, match="is no dataset"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StageError, match="written by another version"):
        read_manifest(tmp_path)


def test_progress_is_told_of_every_stage() -> None:
    """Who listens to nothing is a listener too."""
    Silent().start("x", None)
    Silent().advance(1)


@pytest.mark.parametrize("module", ["pyarrow.parquet", "ray", "datasketch", "presidio_analyzer"])
def test_a_missing_library_is_named_with_its_extra(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without the optional part of the package the message says what to install."""
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "t").write_bytes(b"")
    uses: dict[str, Callable[[], object]] = {
        "pyarrow.parquet": lambda: list(read_parquet(tmp_path / "t")),
        "ray": lambda: RayEngine().__enter__(),
        "datasketch": lambda: signing(128, 0.5),
        "presidio_analyzer": lambda: build_finder(Redaction()),
    }
    with pytest.raises(MissingLibraryError, match=r"pip install 'tunegate\[(data|ray)\]'"):
        uses[module]()
