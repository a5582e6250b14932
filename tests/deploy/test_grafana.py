"""Dashboards, rules and alerts against the metrics that exist, with Prometheus' own tools and a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from app.observability.metrics import Metrics
from app.observability.surveyed import Surveyed
from app.types import CacheStatus, Outcome
from tests.observability.test_metrics import ENTRY
from tests.support.pools import SEEN
from tests.support.processes import free_port, stop

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
RULES = GRAFANA / "prometheus/rules.yaml"
DASHBOARD = GRAFANA / "dashboards/tunegate.json"
NAME = re.compile(r"\b(?:gateway|process)_[a-z_]+[a-z](?=[{\[)\s]|$)")
MATCHED = re.compile(r"\b((?:gateway|process)_[a-z_]+)\{([^}]*)\}")


def told() -> Metrics:
    """Metrics in which everything has happened once."""
    metrics = Metrics(trace_id=lambda: "0af7651916cd43dd8448eb211c80319c")
    metrics.finished(replace(ENTRY, estimated=True), 0.5, 0.1)
    metrics.finished(replace(ENTRY, outcome=Outcome.CACHE_EXACT, cache=CacheStatus.EXACT, saved_microusd=9), 0.01, 0.01)
    metrics.refused("key", "requests_per_minute")
    metrics.guarded("number")
    metrics.adapter("vllm", "loaded", 0.2)
    metrics.placed("vllm", 0.2)
    metrics.redis_failed("TimeoutError")
    metrics.compared("support", agreed=False)
    metrics.webhook("delivered")
    metrics.fell_back("admission", "refused")
    metrics.budget_event("budget.reached", "budget_day")
    metrics.training.left("train", 600.0)
    metrics.watch(
        policy_age_seconds=lambda: 0.4,
        ledger_backlog_entries=lambda: 3,
        reservations_outstanding=lambda: 1,
        reserved_microdollars=lambda: 2,
        breakers=lambda: {"openai": "closed"},
        pools=lambda: [SEEN],
        surveyed=lambda: Surveyed({"queued": 1}, 30.0, 2, 0.0, {("support", "kept"): 1}),
    )
    return metrics


def labels_by_name(metrics: Metrics) -> dict[str, set[str]]:
    """The label names of every series name."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render()[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def dashboard() -> dict[str, Any]:
    """The shipped dashboard."""
    made: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return made


def panels() -> list[dict[str, Any]]:
    """Its panels without the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_expressions() -> list[str]:
    """Every query, with Grafana's variables filled in."""
    raw = [target["expr"] for panel in panels() for target in panel["targets"]]
    return [one.replace("$__rate_interval", "1m").replace("$route", ".*") for one in raw]


def rules() -> list[dict[str, Any]]:
    """Every recording rule and alert."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*arguments: str) -> None:
    """Run it; a missing one fails, and so does what it complains of."""
    if shutil.which("promtool") is None:
        pytest.fail("promtool is missing: run `make deps` (Debian package prometheus)")
    done = subprocess.run(["promtool", *arguments], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configuration_are_valid() -> None:
    """Prometheus' own checker takes the rules and the example configuration."""
    promtool("check", "config", str(GRAFANA / "prometheus/prometheus.yaml"))


def test_every_alert_fires_when_it_must_and_only_then() -> None:
    """The rules' own tests pass, and no alert is without one."""
    promtool("test", "rules", str(GRAFANA / "prometheus/rules_test.yaml"))
    tests = yaml.safe_load((GRAFANA / "prometheus/rules_test.yaml").read_text(encoding="utf-8"))["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts


def test_every_alert_says_what_to_do() -> None:
    """Severity, a sentence, and a section of the runbook that exists."""
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    linked = set()
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"page", "ticket", "info"}
            page, _, section = rule["annotations"]["runbook"].partition("#")
            assert page == "docs/operations.md"
            linked.add(section)
    assert linked == sections


def test_panels_ask_metrics_that_exist() -> None:
    """Every series and every label that a panel or a rule names is one that the gateway gives."""
    known = labels_by_name(told())
    for expression in [*panel_expressions(), *(rule["expr"] for rule in rules())]:
        for name in NAME.findall(expression):
            assert name in known, f"{name} in {expression}"
        for name, matchers in MATCHED.findall(expression):
            asked = set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers))
            assert asked <= known[name] | {"le"}, f"{asked} of {name}"
        for recorded in re.findall(r"\b(?:slo|gateway):[a-z0-9_:]+", expression):
            assert recorded in {rule.get("record") for rule in rules()}


def test_everything_has_happened() -> None:
    """Every family that the gateway declares has a series here, so the tests below look at all of them."""
    for family in text_string_to_metric_families(told().render()[0].decode()):
        assert family.samples, family.name


def test_no_metric_is_shown_nowhere() -> None:
    """Whatever is counted is looked at by a panel or a rule."""
    part = re.compile(r"_(bucket|sum|count)$")
    asked = "\n".join([*panel_expressions(), *(rule["expr"] for rule in rules())])
    looked_at = {part.sub("", name) for name in NAME.findall(asked)}
    assert {part.sub("", name) for name in labels_by_name(told()) if name.startswith("gateway_")} <= looked_at


def test_panels_are_questions_in_a_grid() -> None:
    """Every title asks, ids are unique, nothing overlaps, and the data source is a variable."""
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        across, down = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in across for y in down}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for panel in panels():
        assert "?" in panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))
    assert dashboard()["uid"] == "tunegate-gateway"
    assert "id" not in dashboard()


def test_provisioning_loads() -> None:
    """Grafana's own files name a data source and the folder of dashboards."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/tunegate.yaml").read_text())["providers"]
    assert provider["options"]["path"].endswith("dashboards/tunegate")


@contextmanager
def served(metrics: Metrics) -> Iterator[str]:
    """The exposition on a loopback port, as the gateway serves it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """One scrape."""
            body, content_type = metrics.render(self.headers.get("accept"))
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is the library's
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, path: str, **query: str) -> Any:
        """The data of one API call; an error is one."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def value(self, expression: str) -> float | None:
        """The first value of an instant query."""
        result = self.ask("query", query=expression)["result"]
        return float(result[0]["value"][1]) if result else None


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A real Prometheus that scrapes a real exposition four times a second, with the shipped rules."""
    if shutil.which("prometheus") is None:
        pytest.fail("prometheus is missing: run `make deps` (Debian package prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    with served(told()) as target:
        config = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "500ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "tunegate", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder}/prometheus.yaml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
                "--log.level=error",
            ]
        )
        made = Prometheus(f"http://127.0.0.1:{port}")
        try:
            _wait_for_a_scrape(made, process)
            yield made
        finally:
            stop(process)


def _wait_for_a_scrape(prometheus: Prometheus, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError):  # it does not listen yet
            if prometheus.value("sum(gateway_requests_total)") is not None:
                return
        time.sleep(0.05)
    pytest.fail("Prometheus did not scrape the gateway's metrics within 30 seconds")


def test_a_real_prometheus_reads_the_metrics(prometheus: Prometheus) -> None:
    """Scraped, parsed and queried: the series are there with their values, exemplars too."""
    assert prometheus.value("sum(gateway_requests_total)") == 2
    assert prometheus.value('gateway_tokens_total{route="support",type="prompt"}') == 10
    assert prometheus.value("gateway_policy_age_seconds") == 0.4
    assert prometheus.value("count(gateway_build_info)") == 1
    (target,) = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    asked = {"query": "gateway_request_duration_seconds_bucket", "start": "0", "end": str(time.time() + 60)}
    (exemplar, *_) = prometheus.ask("query_exemplars", **asked)
    assert exemplar["exemplars"][0]["labels"]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize("expression", panel_expressions())
def test_every_panel_can_be_asked(prometheus: Prometheus, expression: str) -> None:
    """A real Prometheus understands and answers the query."""
    assert prometheus.ask("query", query=expression)["resultType"] == "vector"


def test_the_rules_can_be_evaluated(prometheus: Prometheus) -> None:
    """Every rule is loaded, and its query is answered on the real series."""
    loaded = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(loaded) == len(rules())
    for rule in rules():
        assert prometheus.ask("query", query=rule["expr"])["resultType"] == "vector"
