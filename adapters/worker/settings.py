"""What a trainer is told: one strict YAML file. The secret comes from the environment, by the name the file gives."""

from __future__ import annotations

import socket
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.errors import ConfigurationError
from adapters.settings import Url, secret


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseSettings(_Section):
    """One base model this trainer can train on."""

    path: Path = Field(description="Folder with config.json, *.safetensors and the tokenizer.")
    recipe: str = Field(default="tiny-cpu", description="Shipped recipe, or path of a recipe file, used by default.")
    recipes: dict[str, str] = Field(default={}, description="Further recipes a job may ask for, by name.")


class ProviderSettings(_Section):
    """A provider whose fine-tuning jobs this trainer runs."""

    base_url: Url = Field(description="Base URL of its OpenAI-compatible API, with its /v1.")
    key_env: str = Field(default="OPENAI_API_KEY", description="Environment variable with its API key.")
    poll_seconds: float = Field(default=10.0, gt=0, description="How often a job there is looked at, in s.")

    def key(self) -> str:
        """The API key, or an error that says where to put it."""
        found = secret(self.key_env)
        if found is None:
            raise ConfigurationError(f"key_env: {self.key_env} is not set: export the provider's API key")
        return found


class TrainerSettings(_Section):
    """A trainer."""

    gateway: Url = Field(description="Address of the gateway, without a path.")
    secret_env: str = Field(default="TUNEGATE_TRAINER_SECRET", description="Environment variable with the secret.")
    name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        description="Beginning of its name in logs; the work folder keeps the rest, which no other trainer has.",
    )
    work: Path = Field(description="Folder of this trainer alone, for files and checkpoints; survives a restart.")
    bases: dict[str, BaseSettings] = Field(min_length=1, description="Base models by their served name.")
    providers: dict[str, ProviderSettings] = Field(default={}, description="Providers by the gateway's names of them.")
    poll_seconds: int = Field(default=20, ge=0, le=30, description="How long one question for a job may wait, in s.")
    progress_seconds: float = Field(default=1.0, gt=0, description="How often the training's progress is read, in s.")
    stop_seconds: float = Field(default=60.0, gt=0, description="How long a training may take to save and stop, in s.")
    program: tuple[str, ...] = Field(
        default=(), description="Starts a training, with the plan's path behind it; default: this Python's own."
    )
    characters_max: int = Field(default=100_000, ge=1, description="Longest message of an uploaded file.")

    def trainer_secret(self) -> str:
        """The secret, or an error that says where to put it."""
        found = secret(self.secret_env)
        if found is None:
            raise ConfigurationError(
                f"secret_env: {self.secret_env} is not set: export the installation's trainer secret"
            )
        return found


def load_trainer(path: Path) -> TrainerSettings:
    """Read a trainer's file; relative paths in it are relative to it."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = TrainerSettings.model_validate(raw)
    except OSError as exc:
        raise ConfigurationError(f"{path}: cannot be read ({exc.strerror}); give the path of a trainer's file") from exc
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"{path}: is not YAML") from exc
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(map(str, first["loc"])) or "file"
        reason = "is not a setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise ConfigurationError(f"{path}: {field}: {reason}") from exc
    folder = path.resolve().parent
    bases = {name: _beside(folder, base) for name, base in settings.bases.items()}
    return settings.model_copy(update={"work": folder / settings.work, "bases": bases})


def _beside(folder: Path, base: BaseSettings) -> BaseSettings:
    def found(recipe: str) -> str:
        return str(folder / recipe) if recipe.endswith((".yaml", ".yml")) else recipe

    recipes = {name: found(recipe) for name, recipe in base.recipes.items()}
    return base.model_copy(update={"path": folder / base.path, "recipe": found(base.recipe), "recipes": recipes})
