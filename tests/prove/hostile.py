"""Hostile adapters proved: names, archives, symbolic links and fuzzed headers against the import, at full size.

    python -m tests.prove.hostile

Nothing may be written outside the store, nothing but whole versions may stand in it, nothing may crash, and what the
import lets through must be what the format's own library reads. The last line is the figure.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load

from app.errors import GatewayError
from app.storage.artifacts import CONFIG, WEIGHTS, import_adapter
from app.storage.safetensors_header import BadHeader, read_header

CANARY = "canary.txt"
TRICKS = (
    "..",
    "../..",
    "/etc/passwd",
    "%2e%2e%2f",
    "\x00",
    "a/b",
    "a\\b",
    "~root",
    "a--b",
    "-",
    ".",
    "é",
    "a\nb",
    "A" * 80,
)
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


@dataclass(slots=True)
class Tally:
    """What was seen."""

    names: int = 0
    folders: int = 0
    headers: int = 0
    escapes: int = 0
    loads: int = 0
    crashes: int = 0
    reasons: list[str] = field(default_factory=list)

    def promises_held(self) -> bool:
        """Nothing escaped, loaded or crashed."""
        return not (self.escapes or self.loads or self.crashes)


def prove(*, names: int = 1000, headers: int = 10_000, seed: int = 1) -> Tally:
    """Run all of it in a folder of its own."""
    tally, dice = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        (root / CANARY).write_text("untouched")
        good = _good(root / "good")
        store = root / "inside" / "store"
        for number in range(names):
            tally.names += 1
            tenant, name = _hostile(dice), _hostile(dice)
            _refused(tally, lambda t=tenant, n=name: import_adapter(store, t, n, str(good)))  # type: ignore[misc]
            if number % 4 == 0:
                tally.folders += 1
                bad = _bad_folder(root / f"bad-{number}", good, root, dice)
                _refused(tally, lambda b=bad: import_adapter(store, "acme", "support", str(b)))  # type: ignore[misc]
        tally.escapes += sum(path.name != ".." and not _expected(path, root) for path in root.iterdir())
        tally.escapes += (root / CANARY).read_text() != "untouched"
        tally.loads += sum(1 for path in (store / "adapters").glob("*")) if store.exists() else 0
    for _ in range(headers):
        tally.headers += 1
        _header(tally, _mutated(dice))
    return tally


def _expected(path: Path, root: Path) -> bool:
    return path.name in (CANARY, "good", "inside") or path.name.startswith("bad-") or path == root


def _refused(tally: Tally, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except GatewayError:
        return
    except Exception as exc:  # noqa: BLE001 - whatever else comes out is what is looked for
        tally.crashes += 1
        tally.reasons.append(f"{type(exc).__name__}: {exc}"[:200])
    else:
        tally.loads += 1
        tally.reasons.append("a hostile adapter was taken")


def _header(tally: Tally, file: bytes) -> None:
    try:
        tensors = read_header(io.BytesIO(file), len(file))
    except BadHeader:
        return
    except Exception as exc:  # noqa: BLE001 - as above
        tally.crashes += 1
        tally.reasons.append(f"{type(exc).__name__}: {exc}"[:200])
        return
    try:
        loaded = load(file)
    except SafetensorError as exc:
        tally.loads += 1
        tally.reasons.append(f"accepted here, refused by safetensors: {exc}"[:200])
        return
    if {one.name: one.shape for one in tensors} != {name: array.shape for name, array in loaded.items()}:
        tally.loads += 1
        tally.reasons.append("read otherwise than by safetensors")


def _hostile(dice: random.Random) -> str:
    """A name with something in it that no name may have."""
    plain = "".join(dice.choices("abcxyz019", k=dice.randrange(6)))
    trick = dice.choice(TRICKS)
    return dice.choice((trick, f"-{plain}", f"{plain}{trick}/../../etc", f"/{trick}{plain}", f"{plain}..{trick}"))


def _good(folder: Path) -> Path:
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": "base", "peft_type": "LORA", "r": 2, "lora_alpha": 4}
    (folder / CONFIG).write_text(json.dumps({**config, "target_modules": ["q_proj"]}))
    (folder / WEIGHTS).write_bytes(_file())
    return folder


def _file() -> bytes:
    head = {
        f"{MODULE}.lora_A.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        f"{MODULE}.lora_B.weight": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 64]},
    }
    raw = json.dumps(head).encode()
    return struct.pack("<Q", len(raw)) + raw + b"\x00" * 64


def _bad_folder(folder: Path, good: Path, root: Path, dice: random.Random) -> Path:
    """A link, an archive, a pickle, a pipe, a key that names code, or a folder that is none."""
    folder.mkdir()
    for name in (CONFIG, WEIGHTS):
        (folder / name).write_bytes((good / name).read_bytes())
    match dice.randrange(8):
        case 0:
            (folder / WEIGHTS).unlink()
            (folder / WEIGHTS).symlink_to(root / CANARY)
        case 1:
            (folder / CONFIG).unlink()
            (folder / CONFIG).symlink_to("/etc/passwd")
        case 2:
            (folder / WEIGHTS).write_bytes(_zip())
        case 3:
            (folder / WEIGHTS).write_bytes(_tar(root))
        case 4:
            (folder / WEIGHTS).rename(folder / "adapter_model.bin")
        case 5:
            (folder / WEIGHTS).unlink()
            os.mkfifo(folder / WEIGHTS)
        case 6:
            config = json.loads((folder / CONFIG).read_text())
            key = dice.choice(("auto_map", "auto_mapping", "tokenizer_file", "chat_template", "__reduce__"))
            (folder / CONFIG).write_text(json.dumps({**config, key: {"AutoModel": "evil.py--run"}}))
        case _:
            link = folder.with_name(folder.name + "-link")
            link.symlink_to(folder)
            return link
    return folder


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("../../canary.txt", "escaped")
    return made.getvalue()


def _tar(root: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(root / CANARY, arcname="../../../canary.txt")
    return made.getvalue()


def _mutated(dice: random.Random) -> bytes:
    whole = bytearray(_file())
    for _ in range(dice.randrange(1, 6)):
        at = dice.randrange(len(whole)) if whole else 0
        match dice.randrange(5):
            case 0:
                whole[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                whole[at:at] = dice.choice((b"0", b"9", b"-", b"[" * 50, b'"', b"\\", b"\xff", b"e9", b"{}"))
            case 2:
                del whole[at : at + dice.randrange(1, 9)]
            case 3:
                whole[0:8] = struct.pack("<Q", dice.choice((0, 1, 7, len(whole) - 8, 2**31, 2**63, 2**64 - 1)))
            case _:
                whole += dice.randbytes(dice.randrange(64))
    return bytes(whole)


def figure(tally: Tally) -> str:
    """What the last line says."""
    return (
        f"hostile_names={tally.names} hostile_folders={tally.folders} fuzzed_headers={tally.headers}"
        f" escapes={tally.escapes} loads={tally.loads} crashes={tally.crashes}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    seen = prove()
    print("\n".join(seen.reasons[:10]))
    print(f"figure: {figure(seen)}")
    sys.exit(0 if seen.promises_held() else 1)
