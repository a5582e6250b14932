"""Who reaches whom in the cluster: Services, NetworkPolicies, and which process serves which API."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
import yaml

from tests.deploy.manifests import (
    ROOT,
    Manifest,
    config,
    meant,
    of,
    one,
    pods,
    policies_of,
    rules_of,
    shipped,
)
from tests.support.gateway import gateway

MONITORING = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
INSIDE = {"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"}


def callers(manifests: list[Manifest], name: str, port: int) -> set[str]:
    """The workloads that may reach this one on a port; `*` for everybody, `monitoring` for that namespace."""
    found = set()
    for rule in rules_of(manifests, name, "ingress"):
        if port in {entry["port"] for entry in rule["ports"]}:
            for peer in rule.get("from", ["*"]):
                known = "*" if peer == "*" else "monitoring" if peer == MONITORING else None
                found |= {known} if known else meant(manifests, peer["podSelector"])
    return found


def test_everything_is_denied_first(manifests: list[Manifest]) -> None:
    """A policy that selects every pod in both directions and allows nothing."""
    spec = one(manifests, "NetworkPolicy", "default-deny")["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize(("part", "reached"), [
    ("gateway", {8000: {"*"}, 9100: {"monitoring"}}),
    ("admin", {9100: {"monitoring"}}),
    ("vllm", {8000: {"gateway", "admin"}}),
    ("redis", {6379: {"gateway", "admin"}}),
    ("postgres", {5432: {"gateway", "admin", "migrate"}}),
    ("migrate", {}),
    ("trainer", {}),
    ("base-model", {}),
])  # fmt: skip
def test_only_the_named_reach_a_part(everything: list[Manifest], part: str, reached: dict[int, set[str]]) -> None:
    """The API is open, metrics are for one namespace, the inside is for gateways, and nobody reaches the admin API."""
    ports = {entry["port"] for rule in rules_of(everything, part, "ingress") for entry in rule["ports"]}
    assert {port: callers(everything, part, port) for port in ports} == reached


def test_trainers_reach_the_gateway_and_nothing_else(everything: list[Manifest]) -> None:
    """They see tenants' data, so there is no way out for it; the download of the base model sees none."""
    (rule,) = rules_of(everything, "trainer", "egress")
    (peer,) = rule["to"]
    assert peer.keys() == {"podSelector"}
    assert meant(everything, peer["podSelector"]) == {"gateway"}
    (container,) = pods(everything)["gateway"]["spec"]["containers"]
    http = next(port["containerPort"] for port in container["ports"] if port["name"] == "http")
    assert rule["ports"] == [{"protocol": "TCP", "port": http}]
    (download,) = rules_of(everything, "base-model", "egress")
    assert [entry["port"] for entry in download["ports"]] == [443]
    assert all(peer.keys() == {"ipBlock"} for peer in download["to"])


def test_nobody_reaches_the_clouds_metadata_service(everything: list[Manifest]) -> None:
    """Every rule for addresses leaves out link-local and private networks."""
    blocks = [
        peer["ipBlock"]
        for policy in of(everything, "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert len(blocks) == 3
    for block in blocks:
        assert set(block["except"]) >= INSIDE


def test_every_pod_is_selected_by_its_service_and_policy(everything: list[Manifest]) -> None:
    """Selectors mean exactly the pods of their name, target ports have names there, and no peer is an empty name."""
    for service in of(everything, "Service"):
        name = service["metadata"]["name"]
        assert meant(everything, {"matchLabels": service["spec"]["selector"]}) == {name}
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP", "nothing is opened to the world by default"
        (container,) = pods(everything)[name]["spec"]["containers"]
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= {
            port["name"] for port in container["ports"]
        }
    for made in everything:
        if made["kind"] in ("Deployment", "StatefulSet"):
            assert meant(everything, made["spec"]["selector"]) == {made["metadata"]["name"]}
    for name in pods(everything):
        assert policies_of(everything, name), name
    for policy in of(everything, "NetworkPolicy"):
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            for peer in [*rule.get("from", []), *rule.get("to", [])]:
                assert "podSelector" not in peer or meant(everything, peer["podSelector"]), policy["metadata"]["name"]


def environment(manifests: list[Manifest], name: str) -> dict[str, Manifest]:
    """A container's variables by their name."""
    (container,) = pods(manifests)[name]["spec"]["containers"]
    return {entry["name"]: entry for entry in container["env"]}


def test_admin_is_a_gateway_but_for_what_is_said(manifests: list[Manifest]) -> None:
    """The two are written twice, so what they share is compared: image, volumes, probes, rights, all other values."""
    both = {name: pods(manifests)[name]["spec"] for name in ("gateway", "admin")}
    containers = {name: spec["containers"][0] for name, spec in both.items()}
    own = {"name", "env", "lifecycle", "resources"}
    for name in containers["admin"].keys() | containers["gateway"].keys() - own:
        assert name in own or containers["admin"][name] == containers["gateway"][name], name
    for name in ("volumes", "securityContext"):
        assert both["admin"][name] == both["gateway"][name]
    admin, public = environment(manifests, "admin"), environment(manifests, "gateway")
    assert all(admin[name] == public[name] for name in admin.keys() & public.keys())
    assert public.keys() - admin.keys() == {"TUNEGATE_ADMIN_ENABLED", "TUNEGATE_TRAINER_SECRET"}
    assert admin.keys() - public.keys() == {
        "TUNEGATE_ADMIN_KEY",
        "TUNEGATE_TRAINING__ENABLED",
        "TUNEGATE_SERVER__SHUTDOWN_GRACE_SECONDS",
    }
    grace = float(admin["TUNEGATE_SERVER__SHUTDOWN_GRACE_SECONDS"]["value"])
    assert both["admin"]["terminationGracePeriodSeconds"] >= grace + 10


@pytest.mark.parametrize(("name", "served"), [("gateway", {"/v1", "/training/v1"}), ("admin", {"/v1", "/admin/v1"})])
def test_each_serves_its_apis_and_not_the_others(
    manifests: list[Manifest], tmp_path: Path, name: str, served: set[str]
) -> None:
    """A real process with the shipped settings and these variables: what is not served there is not found."""
    settings = yaml.safe_load(config(manifests, "gateway-config")["tunegate.yaml"])
    switches = environment(manifests, name)
    values = {
        "admin_enabled": switches.get("TUNEGATE_ADMIN_ENABLED", {}).get("value", True),
        "training": {"enabled": switches.get("TUNEGATE_TRAINING__ENABLED", {}).get("value", True)},
        "cache": {"semantic": False},
        "prices": settings["prices"],
        "pools": settings["pools"],
    }
    asked = {"/v1": "GET /v1/models", "/admin/v1": "GET /admin/v1/tenants", "/training/v1": "POST /training/v1/claim"}
    with gateway(tmp_path, values, admin_key="x" * 32) as running:
        found = {api: httpx2.request(*line.replace(" /", f" {running.url}/").split()) for api, line in asked.items()}
    assert {api for api, answer in found.items() if answer.status_code != 404} == served
    assert all(answer.status_code in (401, 404) for answer in found.values())


def test_what_a_public_gateway_has_does_not_open_the_admin_api(manifests: list[Manifest]) -> None:
    """Its pods never see the secret, and the addresses of pools are the cluster's own."""
    named = {
        name: {
            entry["valueFrom"]["secretKeyRef"]["key"]
            for container in template["spec"]["containers"]
            for entry in container.get("env", [])
            if "valueFrom" in entry
        }
        for name, template in pods(manifests).items()
    }
    assert {name for name, keys in named.items() if "admin-key" in keys} == {"admin"}
    assert all(url.startswith("http://vllm-") for url in shipped(manifests).all_pools()["vllm"].replicas)


def test_the_ingress_of_the_docs_shows_callers_apis_only() -> None:
    """docs/operations.md's example forwards `/v1` to the gateway: not `/training/v1`, and nothing to `admin`."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    (example,) = [block for block in text.split("```yaml\n")[1:] if "kind: Ingress" in block.split("```")[0]]
    made = yaml.safe_load("\n".join(line.strip("\n") for line in example.split("```")[0].splitlines()))
    for rule in made["spec"]["rules"]:
        assert [(path["path"], path["pathType"]) for path in rule["http"]["paths"]] == [("/v1", "Prefix")]
        assert {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} == {"gateway"}
