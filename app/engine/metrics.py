"""The engine's metrics, under vLLM's names and labels, in a registry of their own.

`vllm:lora_requests_info` keeps vLLM's known faults on purpose (both label sets hold the same names, idle residents are
absent, a series per combination stays for ever), so that nobody builds on it here and fails there.
"""

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.engine.scheduler import Load
from app.engine.sequence import Delta, Sequence

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FINISHES = ("stop", "length", "abort", "error")


class EngineMetrics:
    """Counters written by the engine thread; the queue gauges are read when scraped."""

    def __init__(self, *, model: str, max_loras: int) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = {"engine": "0", "model_name": model}
        self._max_loras = str(max_loras)
        self._prompt = self._counter("vllm:prompt_tokens", "Prompt tokens processed.", labels)
        self._generated = self._counter("vllm:generation_tokens", "Tokens generated.", labels)
        ended = Counter(
            "vllm:request_success",
            "Finished requests.",
            [*labels, "finished_reason"],
            registry=self._registry,
        )
        self._ended = {reason: ended.labels(*labels.values(), reason) for reason in _FINISHES}
        self._first = self._histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", labels)
        self._between = self._histogram("vllm:inter_token_latency_seconds", "Token to token.", labels)
        self._whole = self._histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", labels)
        names = ["max_lora", "running_lora_adapters", "waiting_lora_adapters"]
        self._adapters = Gauge("vllm:lora_requests_info", "Adapters in use.", names, registry=self._registry)

    def watch(self, load: Callable[[], Load], *, model: str) -> None:
        """Register the source of the queue gauges."""
        self._registry.register(_QueueGauges(load, {"engine": "0", "model_name": model}))

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)

    def token(self, sequence: Sequence, delta: Delta, now: float) -> None:
        """Record one token of a sequence, before its `stepped` time is moved on."""
        self._generated.inc()
        if sequence.generated == 1:
            self._prompt.inc(len(sequence.prompt))
            self._first.observe(now - sequence.arrived)
        else:
            self._between.observe(now - sequence.stepped)
        if delta.finish is not None:
            self.ended(delta.finish)
            self._whole.observe(now - sequence.arrived)

    def ended(self, reason: str, count: int = 1) -> None:
        """Record sequences that ended."""
        self._ended[reason].inc(count)

    def adapters(self, names: tuple[str, ...]) -> None:
        """Record which adapters are running or waiting, as vLLM does."""
        joined = ",".join(names)
        self._adapters.labels(self._max_loras, joined, joined).set(time.time())

    def _counter(self, name: str, text: str, labels: dict[str, str]) -> Counter:
        return Counter(name, text, list(labels), registry=self._registry).labels(*labels.values())

    def _histogram(self, name: str, text: str, labels: dict[str, str]) -> Histogram:
        return Histogram(name, text, list(labels), buckets=_SECONDS, registry=self._registry).labels(*labels.values())


class _QueueGauges(Collector):
    """The gauges that describe the queues at the moment of the scrape."""

    def __init__(self, load: Callable[[], Load], labels: dict[str, str]) -> None:
        self._load = load
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        """Read the queues once."""
        load, names, values = self._load(), list(self._labels), list(self._labels.values())
        for name, text, value in (
            ("vllm:num_requests_running", "Sequences running.", load.running),
            ("vllm:num_requests_waiting", "Sequences waiting.", load.waiting),
        ):
            family = GaugeMetricFamily(name, text, labels=names)
            family.add_metric(values, value)
            yield family
        reasons = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason", "Sequences waiting, and why.", labels=[*names, "reason"]
        )
        reasons.add_metric([*values, "capacity"], load.capacity)
        reasons.add_metric([*values, "deferred"], load.deferred)
        yield reasons
