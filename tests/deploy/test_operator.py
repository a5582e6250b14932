"""What is applied where the Prometheus operator runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from tests.deploy.manifests import ROOT, Manifest, of, one, render, selects

RULE = ROOT / "k8s/prometheus-operator/prometheus-rule.yaml"
RULES = ROOT / "grafana/prometheus/rules.yaml"


def test_the_rules_are_those_of_prometheus_itself() -> None:
    """Kustomize reads nothing outside its folder, so the rules stand there once more; never otherwise."""
    (rule,) = of(render(ROOT / "k8s/prometheus-operator"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load(RULES.read_text(encoding="utf-8")), "run: make prometheus-rule"


def test_make_writes_them(tmp_path: Path) -> None:
    """The target keeps the head, and puts today's rules in the place of what stood below it."""
    stale = tmp_path / "prometheus-rule.yaml"
    head = RULE.read_text(encoding="utf-8").partition("spec:\n")[0]
    stale.write_text(f"{head}spec:\n  groups: []\n", encoding="utf-8")
    subprocess.run(["make", "--silent", "prometheus-rule", f"RULE={stale}"], cwd=ROOT, check=True)
    rules = RULES.read_text(encoding="utf-8")
    assert stale.read_text(encoding="utf-8").startswith(f"{head}spec:\n")
    assert yaml.safe_load(stale.read_text(encoding="utf-8"))["spec"] == yaml.safe_load(rules)


def test_every_process_with_metrics_is_scraped(manifests: list[Manifest]) -> None:
    """A monitor selects one Service and its metrics port, and only gateways say `gateway_build_info`."""
    found = {}
    for monitor in of(render(ROOT / "k8s/prometheus-operator"), "ServiceMonitor"):
        (endpoint,) = monitor["spec"]["endpoints"]
        for service in of(manifests, "Service"):
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"]):
                assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
                found[service["metadata"]["name"]] = [one["regex"] for one in endpoint.get("metricRelabelings", [])]
    assert found == {"gateway": [], "admin": ["gateway_build_info"]}
    (namespace,) = {made["metadata"]["namespace"] for made in render(ROOT / "k8s/prometheus-operator")}
    assert namespace == one(manifests, "Namespace", "tunegate")["metadata"]["name"]
