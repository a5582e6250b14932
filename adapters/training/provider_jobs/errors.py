"""What can go wrong with a provider's job."""

from __future__ import annotations

from adapters.training.errors import TrainingError


class ProviderRefused(TrainingError):
    """The provider said no, or we did before asking; trying the same again cannot help."""

    code = "provider_refused"


class ProviderAway(TrainingError):
    """The provider could not be reached for too long. What was done is written down; run the same command again."""

    code = "provider_away"


class ProviderJobFailed(TrainingError):
    """The provider ended the job without a model."""

    code = "provider_job_failed"
