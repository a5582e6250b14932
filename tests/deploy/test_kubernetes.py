"""The rendered manifests against the rules that this project gives itself: what `kubectl apply -k k8s/` would send."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import redis
import typer
import yaml
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from app.cli.main import app as cli
from app.settings import load
from tests.deploy.manifests import (
    ROOT,
    WORKLOADS,
    Manifest,
    config,
    containers,
    known_environment,
    of,
    one,
    pods,
    shipped,
)
from tests.support.processes import free_port, stop

BUILT_IN = {
    "v1", "apps/v1", "batch/v1", "policy/v1", "autoscaling/v2", "networking.k8s.io/v1",
}  # fmt: skip
EXPANDED = re.compile(r"\$\(([A-Z_]+)\)")
UNPROBED = {"migrate", "base-model", "trainer"}  # two end by themselves, the third serves nothing


def test_only_built_in_kinds(everything: list[Manifest]) -> None:
    """It applies on a bare cluster; kinds of operators are in a folder that one chooses."""
    assert {made["apiVersion"] for made in everything} <= BUILT_IN


def test_everything_is_in_the_one_namespace(everything: list[Manifest]) -> None:
    """Nothing lands elsewhere, and the namespace enforces restricted pod security."""
    (namespace,) = of(everything, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for made in everything:
        if made["kind"] != "Namespace":
            assert made["metadata"]["namespace"] == namespace["metadata"]["name"], made["metadata"]["name"]


def test_the_parts_are_there(manifests: list[Manifest]) -> None:
    """Gateway, admin, stores, model servers and migration, each with what it needs."""
    assert {(kind, name) for kind in ("Deployment", "StatefulSet", "Job") for name in pods(of(manifests, kind))} == {
        ("Deployment", "gateway"),
        ("Deployment", "admin"),
        ("StatefulSet", "redis"),
        ("StatefulSet", "postgres"),
        ("StatefulSet", "vllm"),
        ("Job", "migrate"),
    }
    assert of(manifests, "HorizontalPodAutoscaler", "gateway")
    for name in ("gateway", "vllm"):
        budget = one(manifests, "PodDisruptionBudget", name)
        assert budget["spec"]["maxUnavailable"] == 1
        assert budget["spec"]["selector"]["matchLabels"].items() <= pods(manifests)[name]["metadata"]["labels"].items()


def test_the_autoscaler_owns_the_replicas(manifests: list[Manifest]) -> None:
    """The Deployment says no number of its own, which an apply would put back; at least two pods stand."""
    assert "replicas" not in one(manifests, "Deployment", "gateway")["spec"]
    scaler = one(manifests, "HorizontalPodAutoscaler", "gateway")["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "gateway"}
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]


def test_pods_run_as_nobody_in_particular(everything: list[Manifest]) -> None:
    """Not root, no token, no service links, the runtime's seccomp profile, nothing writable but mounts."""
    for name, template in pods(everything).items():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, name
        assert spec["serviceAccountName"] == name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            assert field not in spec, name
        assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume], name
    for name, container in containers(everything):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
    for account in of(everything, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_every_container_is_bounded_and_probed(everything: list[Manifest]) -> None:
    """CPU and memory are requested and limited; what serves has all three probes; what serves requests drains."""
    for name, container in containers(everything):
        for side in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][side].keys(), name
        if name not in UNPROBED:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), name
        if name in ("gateway", "vllm"):
            assert "preStop" in container["lifecycle"], name
    for volume in (volume for made in pods(everything).values() for volume in made["spec"].get("volumes", [])):
        if "emptyDir" in volume:
            assert "sizeLimit" in volume["emptyDir"], volume["name"]


def test_the_grace_time_covers_the_longest_stream(manifests: list[Manifest]) -> None:
    """Kubernetes waits for preStop, the gateway's own grace time and the last flush."""
    spec = pods(manifests)["gateway"]["spec"]
    wait = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    settings = shipped(manifests)
    assert spec["terminationGracePeriodSeconds"] >= wait + settings.server.shutdown_grace_seconds + 10


def test_images_are_named_whole(everything: list[Manifest]) -> None:
    """A repository and a version; never `latest`, never a bare name that kustomize did not resolve.

    Ours are of a host that cannot exist (RFC 6761) until somebody names theirs: under any other name that nobody has
    published, whoever registers it would get the admin key and the database's password.
    """
    whole = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9]+)?(@sha256:[0-9a-f]{64})?")
    for name, container in containers(everything):
        assert whole.fullmatch(container["image"]), name
    ours = {container["image"] for _, container in containers(everything) if "tunegate" in container["image"]}
    assert ours == {"registry.invalid/tunegate:0.1.0", "registry.invalid/tunegate-trainer:0.1.0"}


def test_config_and_claims_that_are_mounted_exist(everything: list[Manifest]) -> None:
    """Every ConfigMap and claim a pod names is made here, and every mount names a volume."""
    maps = {made["metadata"]["name"] for made in of(everything, "ConfigMap")}
    claims = {made["metadata"]["name"] for made in of(everything, "PersistentVolumeClaim")}
    for made in everything:
        if made["kind"] not in WORKLOADS:
            continue
        spec = made["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        named = volumes.keys() | {claim["metadata"]["name"] for claim in made["spec"].get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            assert volume.get("configMap", {}).get("name") in maps | {None}
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in claims | {None}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= named


def test_the_shipped_settings_are_accepted(manifests: list[Manifest], tmp_path: Path) -> None:
    """`tunegate serve` understands the file, and it listens where pods are reached."""
    path = tmp_path / "tunegate.yaml"
    path.write_text(config(manifests, "gateway-config")["tunegate.yaml"], encoding="utf-8")
    settings = load(path)
    (gateway,) = pods(manifests)["gateway"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    assert (settings.server.host, settings.server.metrics_host) == ("0.0.0.0", "0.0.0.0")
    assert ports == {"http": settings.server.port, "metrics": settings.server.metrics_port}
    assert str(settings.data_folder) in {mount["mountPath"] for mount in gateway["volumeMounts"]}
    assert "/etc/tunegate/tunegate.yaml" in {entry.get("value") for entry in gateway["env"]}


def test_the_pool_is_the_stateful_set(manifests: list[Manifest]) -> None:
    """Addresses, sizes and the base model's name are the same in the settings and in vLLM's arguments."""
    pool = shipped(manifests).all_pools()["vllm"]
    made = one(manifests, "StatefulSet", "vllm")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    arguments = dict(argument.removeprefix("--").partition("=")[::2] for argument in container["args"][1:])
    service, count = made["spec"]["serviceName"], made["spec"]["replicas"]
    assert list(pool.replicas) == [f"http://vllm-{index}.{service}:{arguments['port']}" for index in range(count)]
    assert pool.base_model == arguments["served-model-name"]
    assert (pool.max_loras, pool.max_cpu_loras) == (int(arguments["max-loras"]), int(arguments["max-cpu-loras"]))
    assert "enable-lora" in arguments
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    shm = next(volume for volume in made["spec"]["template"]["spec"]["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"]["medium"] == "Memory"


def test_adapters_are_at_the_same_path_everywhere(manifests: list[Manifest]) -> None:
    """The path in a version's record opens the same files in gateways (to write) and in vLLM (to read)."""
    places = {}
    for name in ("gateway", "admin", "vllm"):
        (container,) = pods(manifests)[name]["spec"]["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "adapters"]
        places[name] = (mount["mountPath"], mount.get("readOnly", False))
    assert places["gateway"] == places["admin"] == (places["vllm"][0], False)
    assert places["vllm"][1] is True
    assert places["gateway"][0] == f"{shipped(manifests).data_folder}/objects"
    assert one(manifests, "PersistentVolumeClaim", "adapters")["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize("name", ["gateway", "admin", "migrate"])
def test_the_environment_is_one_that_the_gateway_reads(manifests: list[Manifest], name: str) -> None:
    """Every variable is a setting, or a secret that an address is made of; expansions name earlier variables."""
    (container,) = pods(manifests)[name]["spec"]["containers"]
    before: set[str] = set()
    used: set[str] = set()
    for entry in container["env"]:
        needed = set(EXPANDED.findall(entry.get("value", "")))
        assert needed <= before
        used |= needed
        before.add(entry["name"])
    assert before - known_environment() - used == set()
    assert before - known_environment() <= {"REDIS_PASSWORD", "POSTGRES_PASSWORD"}


def test_secrets_come_from_the_one_secret(everything: list[Manifest]) -> None:
    """No secret is in a manifest; each key that a pod needs stands in the example, which is not applied by itself."""
    assert of(everything, "Secret") == []
    example = yaml.safe_load((ROOT / "k8s/secret.example.yaml").read_text(encoding="utf-8"))
    required = set()
    for _, container in containers(everything):
        for entry in container.get("env", []):
            reference = entry.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                assert reference["name"] == example["metadata"]["name"]
                required |= set() if reference.get("optional") else {reference["key"]}
            assert (
                not re.search(r"password|key|token", entry["name"], re.IGNORECASE) or reference or "=" in entry["name"]
            )
    assert required == example["stringData"].keys()
    assert set(example["stringData"].values()) == {"replace-me"}


def test_commands_exist(manifests: list[Manifest]) -> None:
    """What our image is told to run is a verb of the command line."""
    verbs = typer.main.get_command(cli).commands.keys()  # type: ignore[attr-defined]
    ours = [container for _, container in containers(manifests) if "/tunegate:" in container["image"]]
    assert len(ours) == 3
    for container in ours:
        assert "command" not in container  # the image's entry point is `tunegate`
        assert container["args"][0] in verbs


def test_a_real_redis_takes_the_shipped_configuration(manifests: list[Manifest], tmp_path: Path) -> None:
    """redis-server starts with the file, keeps an append-only file and never evicts."""
    path = tmp_path / "redis.conf"
    path.write_text(config(manifests, "redis-config")["redis.conf"].replace("/data", str(tmp_path)), encoding="utf-8")
    port = free_port()
    process = subprocess.Popen(
        ["redis-server", str(path), "--port", str(port), "--bind", "127.0.0.1", "--requirepass", "x"],
        stdout=subprocess.DEVNULL,
    )
    try:
        with redis.Redis(port=port, password="x", retry=Retry(ConstantBackoff(0.05), 100)) as client:
            asked = client.config_get("append*", "maxmemory*")
            assert client.ping()
        assert (asked["appendonly"], asked["appendfsync"]) == ("yes", "everysec")
        assert asked["maxmemory-policy"] == "noeviction"
        assert int(asked["maxmemory"]) == 1536 * 1024**2
        assert (tmp_path / "appendonlydir").is_dir()
    finally:
        stop(process)


def test_a_change_of_the_settings_rolls_the_pods(manifests: list[Manifest]) -> None:
    """ConfigMaps carry a hash of their content in their name."""
    for made in of(manifests, "ConfigMap"):
        assert re.search(r"-[a-z0-9]{10}$", made["metadata"]["name"]), json.dumps(made["metadata"])
