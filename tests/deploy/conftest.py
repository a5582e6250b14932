"""What the tests of manifests look at."""

from __future__ import annotations

import pytest

from tests.deploy.manifests import ROOT, Manifest, render


@pytest.fixture(scope="session")
def manifests() -> list[Manifest]:
    """The default installation."""
    return render(ROOT / "k8s")


@pytest.fixture(scope="session")
def everything(manifests: list[Manifest]) -> list[Manifest]:
    """The default installation with trainers."""
    return [*manifests, *render(ROOT / "k8s/trainer")]
