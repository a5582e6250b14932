"""What concerns the process itself: where it listens, what it sends out, logs and traces."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.settings.fields import Seconds, Section, Url


class Server(Section):
    """Where the gateway listens and what it accepts."""

    host: str = Field(default="127.0.0.1", description="Address of the public API.")
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port of the public API.")
    metrics_host: str = Field(default="127.0.0.1", description="Address of /metrics.")
    metrics_port: int = Field(default=9100, ge=0, le=65535, description="TCP port of /metrics; 0 switches it off.")
    max_body_bytes: int = Field(default=16 * 1024 * 1024, ge=1024, description="Largest request body, in bytes.")
    body_timeout_seconds: Seconds = Field(default=30.0, description="Longest time for a request body, in seconds.")
    shutdown_grace_seconds: Seconds = Field(
        default=600.0, description="How long running streams may finish after SIGTERM, in seconds."
    )


class Webhooks(Section):
    """Messages to addresses that tenants' endpoints name."""

    allow_private_networks: bool = Field(
        default=False, description="True also sends to http:// and to private addresses: for closed networks only."
    )
    timeout_seconds: Seconds = Field(default=10.0, description="For one delivery, in seconds.")


class Telemetry(Section):
    """Logs and traces."""

    log_format: Literal["json", "console"] = Field(default="json", description="JSON lines or coloured text.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level written.")
    otlp_endpoint: Url | None = Field(default=None, description="OTLP/HTTP traces address; none switches tracing off.")
    max_queued_spans: int = Field(
        default=2048,
        ge=1,
        le=1_000_000,
        description="Spans that wait for a collector that is away; the oldest of more are dropped, and counted.",
    )
    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1, description="Share of requests traced, 0 to 1.")
