"""The folder of one's own that docs/operations.md shows: one's registry in the place of a host that cannot exist."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import ROOT, Manifest, containers, of, render
from tests.deploy.test_docs import examples


@pytest.fixture
def documented() -> Manifest:
    """The example's kustomization."""
    (example,) = [one for one in examples("yaml") if "my-cluster/kustomization.yaml" in one.text]
    made: Manifest = yaml.safe_load(example.text)
    return made


def rendered(kustomization: Manifest, folder: Path) -> list[Manifest]:
    """What it makes beside a checkout, in the word for folders that this kubectl understands."""
    asked = subprocess.run(["kubectl", "version", "--client", "-o", "json"], check=True, capture_output=True)
    if int(json.loads(asked.stdout)["clientVersion"]["minor"].rstrip("+")) < 21:
        kustomization = {**kustomization, "bases": kustomization["resources"], "resources": []}
    shutil.copytree(ROOT / "k8s", folder / "tunegate/k8s")
    own = folder / "my-cluster"
    own.mkdir()
    (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), encoding="utf-8")
    return render(own, warns="bases" in kustomization)


def test_it_names_every_image_of_ours(documented: Manifest, manifests: list[Manifest], tmp_path: Path) -> None:
    """Images come from the registry and by the digest that it names; all else is as it was."""
    made = rendered(documented, tmp_path)
    (image,) = documented["images"]
    ours = {container["image"] for _, container in containers(made) if "tunegate" in container["image"]}
    assert ours == {f"{image['newName']}@{image['digest']}"}
    assert not [container for _, container in containers(made) if "invalid" in container["image"]]
    assert len(made) == len(manifests)


def test_it_takes_trainers_in(documented: Manifest, everything: list[Manifest], tmp_path: Path) -> None:
    """With the two lines that the page tells to add; settings keep their hashed names."""
    folders = [*documented["resources"], "../tunegate/k8s/trainer"]
    trainer = {"name": "registry.invalid/tunegate-trainer", "newName": "registry.example.com/t", "newTag": "1"}
    made = rendered({"resources": folders, "images": [*documented["images"], trainer]}, tmp_path)
    assert not [container for _, container in containers(made) if "invalid" in container["image"]]
    assert {one["metadata"]["name"] for one in of(made, "ConfigMap")} == {
        one["metadata"]["name"] for one in of(everything, "ConfigMap")
    }
