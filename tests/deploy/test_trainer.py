"""The trainer's manifests: what `kubectl apply -k k8s/trainer/` would send, beside the default installation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from adapters.training.recipe import Recipe, shipped_recipe
from adapters.worker.settings import TrainerSettings, load_trainer
from app.cli.main import app as cli
from tests.deploy.manifests import ROOT, Manifest, config, of, one, pods, render, shipped

SECRET = "s3"


@pytest.fixture(scope="module")
def added() -> list[Manifest]:
    """What is applied beside the default installation."""
    return render(ROOT / "k8s/trainer")


@pytest.fixture
def settings(added: list[Manifest], tmp_path: Path) -> TrainerSettings:
    """The trainer's own reading of the shipped file."""
    path = tmp_path / "trainer.yaml"
    path.write_text(config(added, "trainer-config")["trainer.yaml"], encoding="utf-8")
    return load_trainer(path)


def test_nothing_is_applied_twice(manifests: list[Manifest], added: list[Manifest]) -> None:
    """No object of the one replaces one of the other."""
    names = [(made["kind"], made["metadata"]["name"]) for made in [*manifests, *added]]
    assert len(set(names)) == len(names)


def test_it_runs_on_a_gpu_and_keeps_its_work(added: list[Manifest], settings: TrainerSettings) -> None:
    """A GPU each, on nodes that have one; work is on a volume of its own, which a pod of its name finds again."""
    made = one(added, "StatefulSet", "trainer")
    spec = made["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    (claim,) = made["spec"]["volumeClaimTemplates"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == claim["metadata"]["name"]]
    assert settings.work.is_relative_to(mount["mountPath"])
    assert spec["terminationGracePeriodSeconds"] >= settings.stop_seconds + 300


def test_its_settings_meet_the_gateway(
    manifests: list[Manifest], added: list[Manifest], settings: TrainerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It calls the gateway's Service, with the one secret that it is given, and names the pool's base model."""
    service = one(manifests, "Service", "gateway")
    assert settings.gateway == f"http://{service['metadata']['name']}"
    assert 80 in {port["port"] for port in service["spec"]["ports"]}
    assert set(settings.bases) == {pool.base_model for pool in shipped(manifests).all_pools().values()}
    (container,) = pods(added)["trainer"]["spec"]["containers"]
    secrets = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"] if "valueFrom" in entry}
    assert secrets == {settings.secret_env: {"name": "tunegate", "key": "trainer-secret"}}
    (at_gateway,) = pods(manifests)["gateway"]["spec"]["containers"]
    assert {"name": settings.secret_env, "valueFrom": {"secretKeyRef": secrets[settings.secret_env]}} in at_gateway[
        "env"
    ]
    monkeypatch.setenv(settings.secret_env, SECRET)
    assert settings.trainer_secret() == SECRET


def test_what_it_trains_is_served(manifests: list[Manifest], settings: TrainerSettings) -> None:
    """The recipe is a shipped one, its rank one that vLLM was started for, and it needs the one GPU that it has."""
    (vllm,) = pods(manifests)["vllm"]["spec"]["containers"]
    highest = next(int(word.partition("=")[2]) for word in vllm["args"] if word.startswith("--max-lora-rank="))
    for base in settings.bases.values():
        recipe: Recipe = shipped_recipe(base.recipe)
        assert recipe.adapter.rank <= recipe.serving.max_lora_rank <= highest
        assert recipe.launch.world_size == 1


def test_the_base_model_is_the_one_that_is_served(
    manifests: list[Manifest], added: list[Manifest], settings: TrainerSettings
) -> None:
    """The Job downloads what vLLM serves, to where the trainer looks for it."""
    (job,) = pods(added)["base-model"]["spec"]["containers"]
    values = {entry["name"]: entry.get("value") for entry in job["env"]}
    (vllm,) = pods(manifests)["vllm"]["spec"]["containers"]
    assert values["MODEL"] == vllm["args"][0]
    (mount,) = [mount for mount in job["volumeMounts"] if mount["name"] == "models"]
    assert {str(base.path) for base in settings.bases.values()} == {f"{mount['mountPath']}/{values['NAME']}"}
    (trainer,) = pods(added)["trainer"]["spec"]["containers"]
    assert {"name": "models", "mountPath": mount["mountPath"], "readOnly": True} in trainer["volumeMounts"]
    assert one(added, "PersistentVolumeClaim", "base-models")["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("fails", [False, True])
def test_a_trainer_never_sees_half_a_model(added: list[Manifest], tmp_path: Path, fails: bool) -> None:
    """The Job's own words with a download that ends or breaks off: the name appears when it is whole, and stays."""
    (job,) = pods(added)["base-model"]["spec"]["containers"]
    models, programs = tmp_path / "models", tmp_path / "bin"
    models.mkdir()
    programs.mkdir()
    fetch = programs / "hf"
    fetch.write_text(
        '#!/bin/sh\nset -e\nfor last; do :; done\nmkdir "$last"\necho "$@" > "$last/config.json"\n'
        + ("exit 1\n" if fails else ""),
        encoding="utf-8",
    )
    fetch.chmod(0o700)
    script = job["args"][0].replace("/models/", f"{models}/")
    environment = {entry["name"]: entry["value"] for entry in job["env"] if "value" in entry}
    environment["PATH"] = f"{programs}:/usr/bin:/bin"
    first = subprocess.run([*job["command"], script], env=environment, check=False)
    assert (first.returncode != 0) == fails
    whole = models / environment["NAME"]
    assert whole.exists() != fails
    if not fails:
        assert whole.joinpath("config.json").read_text().startswith(f"download {environment['MODEL']} --revision ")
        fetch.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        assert subprocess.run([*job["command"], script], env=environment, check=False).returncode == 0


def test_its_command_exists(added: list[Manifest]) -> None:
    """The image's entry point is `tunegate`, which has this verb; the file is where the ConfigMap is mounted."""
    (container,) = pods(added)["trainer"]["spec"]["containers"]
    verb, path = container["args"]
    assert "command" not in container
    assert verb in {
        command.name or command.callback.__name__ for command in cli.registered_commands if command.callback
    }
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "config"]
    assert path == f"{mount['mountPath']}/{next(iter(config(added, 'trainer-config')))}"
    assert re.search(r"-[a-z0-9]{10}$", of(added, "ConfigMap")[0]["metadata"]["name"])


def test_versions_are_the_same_everywhere() -> None:
    """Gateway and trainer are released together."""
    tags = set()
    for folder in ("k8s", "k8s/trainer"):
        made = yaml.safe_load((ROOT / folder / "kustomization.yaml").read_text(encoding="utf-8"))
        tags |= {image["newTag"] for image in made["images"] if image["newName"].startswith("registry.invalid/")}
    assert tags == {re.search(r'version="([^"]+)"', (ROOT / "Dockerfile").read_text(encoding="utf-8"))[1]}  # type: ignore[index]
