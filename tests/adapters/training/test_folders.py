"""What lies on disk between processes: checkpoints, progress, plans, errors, adapters and their tars."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from adapters.training.artifact import adapter_sha256, pack, read_manifest, settle, unpack
from adapters.training.base_model import read_base
from adapters.training.callbacks import Interrupt, Steps
from adapters.training.checkpoints import is_whole, newest, prune, seal, step_of, whole
from adapters.training.distributed import torchrun_arguments
from adapters.training.errors import TooFewExamples, TrainingFailed, of_code
from adapters.training.lineage import manifest_for
from adapters.training.plan import TrainingPlan, read_plan, write_plan
from adapters.training.preflight import Checked
from adapters.training.process import read_error
from adapters.training.progress import Pace, Progress, ProgressReader, ProgressWriter
from adapters.training.provenance import code_commit, library_versions
from adapters.training.recipe import LaunchRecipe
from adapters.training.tracking import flat
from app.storage.artifacts import content_hash
from tests.support.training_data import BASE, chat_file, plan

SHIPPED = BASE.parent / "adapters" / "acme"


@pytest.fixture
def wanted(tmp_path: Path) -> TrainingPlan:
    """A plan that nobody runs."""
    return plan(tmp_path / "work", chat_file(tmp_path / "train.jsonl", count=12))


def checkpoint(folder: Path, step: int, *, sealed: bool = True) -> Path:
    """Write a checkpoint with one file."""
    made = folder / f"checkpoint-{step}"
    made.mkdir(parents=True)
    (made / "weights").write_bytes(b"x" * step)
    if sealed:
        seal(made)
    return made


def test_only_sealed_checkpoints_count_and_the_rest_is_removed(tmp_path: Path) -> None:
    """No seal, a file that is shorter than the seal says, a seal cut off, a file that is gone: none is resumed from."""
    for step in (1, 10, 11, 12, 13):
        checkpoint(tmp_path, step, sealed=step != 10)
    (tmp_path / "checkpoint-11" / "weights").write_bytes(b"x")
    (tmp_path / "checkpoint-12" / "sealed.json").write_bytes(b'{"step":')
    (tmp_path / "checkpoint-13" / "weights").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    assert newest(tmp_path) == tmp_path / "checkpoint-1"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert newest(tmp_path / "none") is None


def test_pruning_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    """Steps are compared as numbers."""
    for step in (9, 10, 80, 100):
        checkpoint(tmp_path, step)
    prune(tmp_path, 2, best=tmp_path / "checkpoint-9")
    assert [step_of(path) for path in whole(tmp_path)] == [9, 80, 100]


def test_a_reader_sees_whole_lines_once(tmp_path: Path) -> None:
    """Half a line waits for its rest; a line that a kill has broken is passed over."""
    path = tmp_path / "progress.jsonl"
    reader, writer = ProgressReader(path), ProgressWriter(path)
    assert reader.read() == []
    writer.tell(Progress(kind="start", total_steps=3))
    with path.open("ab") as opened:
        opened.write(b'{"kind":"step","st')
    assert [one.kind for one in reader.read()] == ["start"]
    assert reader.read() == []
    writer.tell(Progress(kind="step", step=1))
    writer.tell(Progress(kind="step", step=2))
    assert [one.step for one in reader.read()] == [2]


def test_time_left_is_smoothed_time_per_step() -> None:
    """Nothing is known at the first step; a slow step counts a tenth."""
    pace = Pace(smoothing=0.1)
    assert pace.at(1, 10, 100.0) is None
    assert pace.at(2, 10, 101.0) == 8.0
    assert pace.at(3, 10, 112.0) == 14.0
    assert Progress(kind="step", step=3, total_steps=10, train_loss=0.5, seconds_left=14.0).line() == (
        "step 3/10: loss 0.5000, 14 s left"
    )


def test_steps_are_told_and_checkpoints_sealed_by_the_first_process_only(tmp_path: Path) -> None:
    """Another rank says nothing and seals nothing."""
    writer = ProgressWriter(tmp_path / "progress.jsonl")
    first, other = Steps(1, writer, None, Interrupt()), Steps(1, None, None, Interrupt())
    for step in (5, 6):
        checkpoint(tmp_path, step, sealed=False)
    other.saved(tmp_path, 5, 9, None)
    assert not is_whole(tmp_path / "checkpoint-5")
    for step in (5, 6):
        first.saved(tmp_path, step, 9, None)
    first.logged(6, 9, {"loss": 0.5, "learning_rate": 0.1})
    first.logged(6, 9, {"train_runtime": 1.0})
    first.evaluated(6, 9, {"eval_loss": 0.7})
    assert [path.name for path in whole(tmp_path)] == ["checkpoint-6"]
    told = [(one.kind, one.train_loss, one.valid_loss) for one in ProgressReader(tmp_path / "progress.jsonl").read()]
    assert told == [("checkpoint", None, None)] * 2 + [("step", 0.5, None), ("evaluation", None, 0.7)]


def test_a_plan_comes_back_as_it_was_written(wanted: TrainingPlan) -> None:
    """And its recipe is judged again."""
    assert read_plan(write_plan(wanted)) == wanted
    assert wanted.parsed_recipe().adapter.rank == 8


def test_an_error_crosses_the_process_border_with_its_code(wanted: TrainingPlan) -> None:
    """The parent raises what the child wrote down; an unknown code is a failed training."""
    from adapters.training.__main__ import REFUSED, write_error

    assert read_error(wanted) is None
    wanted.folder.mkdir()
    assert write_error(wanted, TooFewExamples("too few", param="training_file")) == REFUSED
    error = read_error(wanted)
    assert isinstance(error, TooFewExamples)
    assert (error.message, error.param) == ("too few", "training_file")
    assert isinstance(of_code("odd", "words"), TrainingFailed)


@pytest.fixture
def settled(tmp_path: Path, wanted: TrainingPlan) -> Path:
    """A shipped adapter as if it had just been trained."""
    building, final = tmp_path / "building", tmp_path / "final"
    shutil.copytree(SHIPPED, building)
    (building / "README.md").write_text("made by a library", encoding="utf-8")
    (building / "runs").mkdir()
    checked = Checked(wanted.parsed_recipe(), read_base(BASE), ("q_proj",), 1, 1)
    settle(building, final, "tunegate-tiny", lambda folder: manifest_for(wanted, checked, folder, {"steps": 1.0}, 7.0))
    return final


def test_an_adapter_is_settled_whole_with_its_manifest(settled: Path) -> None:
    """Only what belongs to it stays; the identity is the one that the gateway's store computes."""
    assert sorted(path.name for path in settled.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    manifest = read_manifest(settled)
    assert manifest is not None
    assert manifest.version == f"acme--support@{content_hash(settled)[:12]}"
    assert manifest.sha256 == adapter_sha256(settled) == content_hash(settled)
    assert (
        json.loads((settled / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        == "tunegate-tiny"
    )


def test_an_adapter_whose_bytes_have_changed_is_not_whole(settled: Path) -> None:
    """A manifest beside other bytes is no manifest."""
    with (settled / "adapter_model.safetensors").open("ab") as opened:
        opened.write(b"x")
    assert read_manifest(settled) is None
    assert read_manifest(settled.parent) is None


def test_the_same_files_make_the_same_tar(settled: Path, tmp_path: Path) -> None:
    """Whenever and by whomever it is packed; and unpacking gives the files back."""
    first = pack(settled, tmp_path / "one.tar")
    for file in settled.iterdir():
        file.touch()
    assert pack(settled, tmp_path / "two.tar") == first
    unpack(tmp_path / "one.tar", tmp_path / "back")
    assert read_manifest(tmp_path / "back") == read_manifest(settled)


@pytest.mark.parametrize(
    ("name", "kind"), [("../evil", tarfile.REGTYPE), ("link", tarfile.SYMTYPE), (".hidden", tarfile.REGTYPE)]
)
def test_a_tar_that_reaches_out_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    """Paths, links and hidden files are never unpacked."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(entry, io.BytesIO())
    with pytest.raises(TrainingFailed, match="plain files"):
        unpack(tmp_path / "evil.tar", tmp_path / "out")


def test_torchrun_is_told_one_machine_or_where_to_meet(tmp_path: Path) -> None:
    """The same words on every node."""
    alone = torchrun_arguments(LaunchRecipe(by="torchrun", processes=8, restarts=2), tmp_path / "plan.json", "m")
    assert alone[:5] == ["--nproc-per-node", "8", "--nnodes", "1", "--standalone"]
    many = LaunchRecipe(by="torchrun", processes=8, nodes=2, rendezvous="head:29500")
    assert "head:29500" in torchrun_arguments(many, tmp_path / "plan.json", "m")
    assert many.world_size == 16


def test_provenance_knows_libraries_and_code() -> None:
    """What is not installed is left out; code is a commit or a release."""
    assert set(library_versions(("numpy", "no-such-library"))) == {"numpy"}
    assert code_commit()


def test_a_recipe_is_flattened_for_tracking() -> None:
    """Dotted names, values as text."""
    assert flat({"name": "x", "adapter": {"rank": 8, "targets": None}}) == {
        "name": "x",
        "adapter.rank": "8",
        "adapter.targets": "None",
    }
