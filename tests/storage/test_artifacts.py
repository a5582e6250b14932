"""The adapter store: hostile folders leave nothing behind, good ones appear whole, once, under their content's name."""

from __future__ import annotations

import concurrent.futures
import os
import random
import shutil
import socket
import string
import threading
from importlib.resources import files
from pathlib import Path

import pytest
from safetensors import safe_open

from app.errors import Conflict, GatewayError, InvalidRequest, Unavailable
from app.storage import artifacts
from app.storage.artifacts import content_hash, import_adapter
from tests.storage.adapter import folder, weights
from tests.storage.test_safetensors_header import mutated

ACME = Path(str(files("app.engine") / "assets" / "adapters" / "acme"))


def refused(store: Path, path: object, says: str = "") -> str:
    """The reason for refusing this folder; nothing of it has stayed in the store."""
    with pytest.raises(InvalidRequest) as caught:
        import_adapter(store, "acme", "support", str(path))
    assert caught.value.param == "path"
    assert caught.value.message.startswith("path: ")
    assert says in caught.value.message
    assert contents(store) == []
    return caught.value.message


def contents(store: Path) -> list[str]:
    """What the store holds."""
    return sorted(path.name for path in (store / "adapters").iterdir())


def test_an_adapter_is_copied_under_its_contents_name(tmp_path: Path) -> None:
    """Two files, byte for byte, loadable; extra files stay behind; the source may go."""
    source = tmp_path / "source"
    shutil.copytree(ACME, source)
    (source / "tokenizer.json").write_text("{}", encoding="utf-8")
    (source / "evil.py").write_text("raise SystemExit", encoding="utf-8")
    version = import_adapter(tmp_path / "store", "acme", "support", str(source))
    shutil.rmtree(source)
    stored = Path(version.path)
    assert stored == tmp_path / "store" / "adapters" / version.id
    assert version.id == f"acme--support@{version.sha256[:12]}"
    assert version.sha256 == content_hash(stored)
    assert sorted(path.name for path in stored.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    for path in stored.iterdir():
        assert path.read_bytes() == (ACME / path.name).read_bytes()
    with safe_open(stored / "adapter_model.safetensors", framework="np") as opened:
        assert list(opened.keys())
    assert (version.rank, version.base_model) == (8, "tunegate-tiny")


def test_the_hash_covers_both_files(tmp_path: Path) -> None:
    """A change in either file is another version; the same bytes are the same one, for another name too."""
    store = tmp_path / "store"
    plain = import_adapter(store, "acme", "support", str(folder(tmp_path / "a")))
    again = import_adapter(store, "acme", "support", str(folder(tmp_path / "b")))
    other_config = import_adapter(store, "acme", "support", str(folder(tmp_path / "c", {"lora_alpha": 8})))
    other_weights = import_adapter(
        store, "acme", "support", str(folder(tmp_path / "d", None, weights(data=b"\x01" * 64)))
    )
    other_name = import_adapter(store, "bloom", "support", str(folder(tmp_path / "e")))
    assert plain == again
    assert len({plain.id, other_config.id, other_weights.id}) == 3
    assert other_name.sha256 == plain.sha256
    assert contents(store) == sorted({plain.id, other_config.id, other_weights.id, other_name.id})


def test_many_imports_of_one_adapter_at_once_are_one(tmp_path: Path) -> None:
    """Eight at the same time: one version, nothing left half-made."""
    source, store = folder(tmp_path / "a"), tmp_path / "store"
    gate = threading.Barrier(8)

    def run(_: int) -> str:
        gate.wait()
        return import_adapter(store, "acme", "support", str(source)).id

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(run, range(8)))
    assert contents(store) == sorted(ids)
    assert len(ids) == 1


def test_damaged_files_are_never_taken_for_the_version(tmp_path: Path) -> None:
    """Other bytes under a version's name are a conflict, not a success."""
    source, store = folder(tmp_path / "a"), tmp_path / "store"
    version = import_adapter(store, "acme", "support", str(source))
    (Path(version.path) / "adapter_model.safetensors").write_bytes(weights(data=b"\x02" * 64))
    with pytest.raises(Conflict):
        import_adapter(store, "acme", "support", str(source))
    assert contents(store) == [version.id]


def test_what_is_absent_is_said(tmp_path: Path) -> None:
    """The folder, the configuration, the weights; weights of another format get the advice."""
    refused(tmp_path, tmp_path / "nowhere", "this folder is not there")
    source = folder(tmp_path / "a")
    (source / "adapter_config.json").unlink()
    refused(tmp_path, source, "adapter_config.json is not there")
    folder(tmp_path / "b")
    (tmp_path / "b" / "adapter_model.safetensors").rename(tmp_path / "b" / "adapter_model.bin")
    refused(tmp_path, tmp_path / "b", "only safetensors")
    refused(tmp_path, "relative/path", "absolute")
    refused(tmp_path, f"{source}\x00/x", "absolute")


def test_no_link_is_followed(tmp_path: Path) -> None:
    """Neither a folder nor a file that is a symbolic link, to a real adapter or to a secret, is opened."""
    real = folder(tmp_path / "real")
    (tmp_path / "linked").symlink_to(real)
    refused(tmp_path, tmp_path / "linked", "symbolic link")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        source = folder(tmp_path / f"with-{name}")
        (source / name).unlink()
        for target in (real / name, Path("/etc/passwd"), Path("/dev/zero"), tmp_path / "dangling"):
            (source / name).symlink_to(target)
            assert "root:" not in refused(tmp_path, source, "symbolic link")
            (source / name).unlink()


def test_no_device_pipe_or_socket_is_read(tmp_path: Path) -> None:
    """What is not a regular file is refused at once, also a pipe that nobody writes to."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        source = folder(tmp_path / f"with-{name}")
        (source / name).unlink()
        os.mkfifo(source / name)
        refused(tmp_path, source, "not a regular file")
        (source / name).unlink()
        (source / name).mkdir()
        refused(tmp_path, source, "not a regular file")
        (source / name).rmdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(source)  # a socket's path must be short
        try:
            listener.bind("adapter_model.safetensors")
        finally:
            os.chdir(here)
        refused(tmp_path, source)
    refused(tmp_path, "/dev/null", "not what it should be")
    refused(tmp_path, "/etc/passwd", "not what it should be")


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration or weights over the limit are refused by their size."""
    refused(tmp_path, folder(tmp_path / "a", b" " * (1024 * 1024 + 1)), "larger than")
    monkeypatch.setitem(artifacts.MAX_BYTES, "adapter_model.safetensors", 100)
    refused(tmp_path, folder(tmp_path / "b"), "larger than 100")


def hostile(number: int) -> str:
    """A name that tries to be a path, a pattern, another tenant's, or just long."""
    chance = random.Random(number)
    tricks = ["..", "/", "\\", "--", "@", "\x00", "\n", "%2e", "~", "*", " ", ".", "-", "é", "A", "\u202e", "$(x)", "_"]
    plain = "".join(chance.choices(string.ascii_lowercase + string.digits, k=chance.randrange(0, 8)))
    return plain + chance.choice(tricks) + chance.choice((plain, "", "/etc/passwd", "a" * 64))


def test_two_thousand_hostile_names_touch_nothing(tmp_path: Path) -> None:
    """As a tenant or as an adapter's name each is refused before the disk is touched, or cannot be more than a name."""
    source = str(folder(tmp_path / "a"))
    before = sorted(path.name for path in tmp_path.iterdir())
    store = tmp_path / "a" / "store"
    for number in range(1000):
        for tenant, name in ((hostile(number), "support"), ("acme", hostile(number))):
            try:
                version = import_adapter(store, tenant, name, source)
            except InvalidRequest:
                continue
            assert version.id.partition("@")[0] == f"{tenant}--{name}"
            assert Path(version.path).parent == store / "adapters"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_two_tenants_never_share_a_versions_name(tmp_path: Path) -> None:
    """`a--b` with `c` would be `a` with `b--c`: such names are not taken."""
    source = str(folder(tmp_path / "a"))
    for tenant, name in (("a--b", "c"), ("a", "b--c"), ("a-", "b"), ("a", "-b")):
        with pytest.raises(InvalidRequest):
            import_adapter(tmp_path / "store", tenant, name, source)


def test_fuzzed_files_are_refused_or_stored_whole(tmp_path: Path) -> None:
    """Three hundred times: fuzzed weights neither crash the import nor leave anything but whole versions."""
    source, store = folder(tmp_path / "a"), tmp_path / "store"
    for number in range(300):
        file = mutated(number)
        (source / "adapter_model.safetensors").write_bytes(file)
        try:
            version = import_adapter(store, "acme", "support", str(source))
        except InvalidRequest as exc:
            assert exc.param == "path"
            continue
        assert (Path(version.path) / "adapter_model.safetensors").read_bytes() == file
    assert not [name for name in contents(store) if name.startswith(".")]


def test_a_store_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    """That is the operator's trouble, not the caller's: 503, with the reason."""
    (tmp_path / "store").write_bytes(b"a file, no folder")
    with pytest.raises(Unavailable, match="cannot be written"):
        import_adapter(tmp_path / "store", "acme", "support", str(folder(tmp_path / "a")))


def test_a_failure_while_copying_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle: 503, and the store is as it was."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GatewayError) as caught:
        import_adapter(tmp_path / "store", "acme", "support", str(folder(tmp_path / "a")))
    assert caught.value.status == 503
    assert "No space left" in caught.value.message
    assert contents(tmp_path / "store") == []
