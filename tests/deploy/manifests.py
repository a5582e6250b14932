"""The manifests as kustomize renders them, and questions about them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import AliasChoices

from app.settings import Settings

ROOT = Path(__file__).parents[2]
WORKLOADS = ("Deployment", "StatefulSet", "Job", "CronJob", "DaemonSet")
COMPONENT = "app.kubernetes.io/component"
Manifest = dict[str, Any]


def render(folder: Path, *, warns: bool = False) -> list[Manifest]:
    """The objects that kustomize makes of a folder; words that it warns of are a failure unless that is known."""
    if shutil.which("kubectl") is None:
        pytest.fail("kubectl is missing: run `make deps` (Debian package kubernetes-client)")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], check=False, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert warns or b"deprecated" not in done.stderr, done.stderr.decode()
    return [made for made in yaml.safe_load_all(done.stdout) if made]


def of(manifests: list[Manifest], kind: str, name: str | None = None) -> list[Manifest]:
    """Objects of one kind."""
    return [made for made in manifests if made["kind"] == kind and name in (None, made["metadata"]["name"])]


def one(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """The only object of that kind and name."""
    (made,) = of(manifests, kind, name)
    return made


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The pods' templates, by the name of what makes them."""
    return {made["metadata"]["name"]: made["spec"]["template"] for made in manifests if made["kind"] in WORKLOADS}


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every container, those that run first included."""
    for name, template in pods(manifests).items():
        for container in [*template["spec"]["containers"], *template["spec"].get("initContainers", [])]:
            yield name, container


def config(manifests: list[Manifest], name: str) -> dict[str, str]:
    """The files of a ConfigMap, whatever hash its name carries."""
    (made,) = [made for made in of(manifests, "ConfigMap") if made["metadata"]["name"].startswith(f"{name}-")]
    files: dict[str, str] = made["data"]
    return files


def shipped(manifests: list[Manifest]) -> Settings:
    """The settings that the gateway would read."""
    return Settings(**yaml.safe_load(config(manifests, "gateway-config")["tunegate.yaml"]))


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector means a pod with these labels; of expressions it knows `In`, the only one used here."""
    expressions = selector.get("matchExpressions", [])
    assert {expression["operator"] for expression in expressions} <= {"In"}
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def meant(manifests: list[Manifest], selector: Manifest) -> set[str]:
    """The names of the workloads whose pods a selector means."""
    return {name for name, template in pods(manifests).items() if selects(selector, template["metadata"]["labels"])}


def policies_of(manifests: list[Manifest], name: str) -> list[Manifest]:
    """The specs of the NetworkPolicies that mean a workload's pods, those for every pod left out."""
    specs = [policy["spec"] for policy in of(manifests, "NetworkPolicy")]
    return [spec for spec in specs if spec["podSelector"] and name in meant(manifests, spec["podSelector"])]


def rules_of(manifests: list[Manifest], name: str, side: str) -> list[Manifest]:
    """The rules of one direction (`ingress` or `egress`) that hold for a workload's pods."""
    return [rule for spec in policies_of(manifests, name) for rule in spec.get(side, [])]


def known_environment() -> set[str]:
    """Every environment name that the settings read."""
    names = {"TUNEGATE_CONFIG"}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names |= {str(choice) for choice in alias.choices} if isinstance(alias, AliasChoices) else set()
        names.add(f"TUNEGATE_{name.upper()}")
        inside = getattr(field.annotation, "model_fields", {})
        names |= {f"TUNEGATE_{name.upper()}__{part.upper()}" for part in inside}
    return names
