"""What is counted about training jobs and the trainers that work on them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from app.observability.series import Bounded

QUEUED = "queued"
STAGES = (QUEUED, "prepare", "train", "servable", "register")
HEARTBEATS = ("continue", "pause", "cancel", "refused")
OUTCOMES = ("succeeded", "failed", "cancelled")
STAGE_SECONDS = (5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 259_200.0)


class TrainingMetrics:
    """Never a label: a tenant, a job, a model, a trainer's name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        durations = Histogram(
            "gateway_training_stage_duration_seconds",
            "From a job's entering a stage to its leaving it for the next; `queued` ends with the claim.",
            ("stage",),
            registry=registry,
            buckets=STAGE_SECONDS,
        )
        self._durations = {stage: durations.labels(stage) for stage in STAGES}
        self._heartbeats = Bounded(
            Counter(
                "gateway_training_heartbeats_total", "Trainers' heartbeats by answer.", ("answer",), registry=registry
            ).labels
        )
        self._ended = Bounded(
            Counter(
                "gateway_training_jobs_ended_total",
                "Training jobs by how they ended; `reason` is a failure's code.",
                ("outcome", "reason"),
                registry=registry,
            ).labels
        )
        self._lost = Counter(
            "gateway_training_leases_lost_total", "Leases whose trainer did not give them back.", registry=registry
        )
        for answer in HEARTBEATS:
            self._heartbeats(answer)
        for outcome in OUTCOMES:
            self._ended(outcome, "")

    def left(self, stage: str, seconds: float) -> None:
        """A job has left a stage for the next; stages that trainers do not tell of are not timed."""
        if stage in self._durations:
            self._durations[stage].observe(max(0.0, seconds))

    def heartbeat(self, answer: str) -> None:
        """A trainer was told to `continue`, `pause` or `cancel`, or was `refused` for its lease was lost."""
        self._heartbeats(answer).inc()

    def ended(self, outcome: str, reason: str = "", *, jobs: int = 1) -> None:
        """So many jobs have `succeeded`, `failed` for a reason, or were `cancelled`."""
        self._ended(outcome, reason).inc(jobs)

    def lost(self, leases: int = 1) -> None:
        """So many trainers went without giving their job back."""
        self._lost.inc(leases)
