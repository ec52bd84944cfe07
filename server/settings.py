"""One frozen value per process. The only file of the server that reads the environment (``PATCHBAY_…``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from adapters.processes.limits import ResourceLimits
from adapters.sources.rules import SourceRules
from server.memory_limit import memory_limit

PREFIX = "PATCHBAY_"
HUB_TOKEN = "HF_TOKEN"  # noqa: S105  the hub's own variable, a name and no secret


class UnknownSetting(ValueError):
    """A ``PATCHBAY_…`` variable that names no setting: most likely a typo."""


class ExposedWithoutKeys(ValueError):
    """The address is reachable from other machines and nobody needs a key."""


class Settings(BaseSettings):
    """What an operator decides. Flags of ``patchbay serve`` win over the environment, the environment over defaults."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: str | None = Field(None, description="Base model: a directory or a hub id; none: the embedded base.")
    engine_flags: tuple[str, ...] = Field((), description="Flags handed to vLLM as they are.")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any free one.")
    allow_anonymous: bool = Field(
        False, description="Serve without API keys on an address that other machines can reach."
    )

    data_dir: Path = Field(Path(".data"), description="Database, blobs, staging and the residents journal.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; none: SQLite in the data directory.")
    blob_url: str | None = Field(None, description="s3://, gs://, az:// or file:// copy of every blob.")

    source_dirs: tuple[Path, ...] = Field((), description="Directories that file:// sources may name.")
    source_buckets: tuple[str, ...] = Field((), description="URL prefixes that s3:// and gs:// sources may name.")
    hub_endpoint: str | None = Field(None, description="Hugging Face hub to pull adapters from; none: the public one.")
    hub_token: str | None = Field(None, description="Token for private repositories; none: HF_TOKEN.", repr=False)
    max_upload_bytes: int = Field(4 * 2**30, gt=0, description="Largest adapter accepted.")
    max_compile_bytes: int = Field(8 * 2**30, ge=2**29, description="Memory that work on one adapter may take.")
    max_compile_s: int = Field(600, gt=0, description="Seconds of one core that work on one adapter may take.")
    max_file_bytes: int = Field(512 * 2**20, gt=0, description="Largest file accepted, such as one to train on.")

    max_residents: int = Field(64, ge=2, description="Adapters held ready by the engine at once.")
    max_resident_bytes: int | None = Field(
        None, gt=0, description="Memory that they may take, by the size of their files; none: a quarter of the host's."
    )
    load_wait_s: float = Field(30.0, gt=0, description="How long a cold request waits for room among the residents.")
    max_in_flight: int = Field(
        1024, ge=1, description="Inference requests at once, three quarters for one adapter; the next one gets 429."
    )
    turn_s: float = Field(
        1.0, gt=0, description="How long an adapter keeps its slot at least while another one waits for it."
    )

    probe_reference: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compare each adapter as served with PEFT in float32 on the CPU; auto: where the base model then "
        "takes less than a quarter of the memory.",
    )

    worker: bool = Field(True, description="Run fine-tuning jobs beside the server.")
    integrations: tuple[Literal["wandb"], ...] = Field(
        (), description="Tracking libraries that jobs may send their metrics to."
    )
    train_processes: int = Field(1, ge=1, description="Processes of a run, one a GPU.")

    drain_s: float = Field(30.0, ge=0, description="How long SIGTERM waits for requests in flight.")
    max_engine_deaths: int = Field(5, ge=1, description="Engine deaths within the window before exit 70.")
    engine_death_window_s: float = Field(600.0, gt=0, description="Seconds over which engine deaths are counted.")

    follow_interval_s: float = Field(0.5, gt=0, description="How often other processes' registry writes are read.")
    sweep_interval_s: float = Field(3600.0, gt=0, description="How often orphaned blobs are removed.")
    sweep_grace_s: float = Field(3600.0, ge=60, description="Age below which an orphan may still become a version.")

    metric_adapters: int = Field(200, ge=0, description="Adapters with series of their own; the rest share 'other'.")
    log_format: Literal["text", "json"] = Field("text", description="One line an event, for people or for machines.")
    fault_at: str | None = Field(None, description="Test only: die at this named fault point.")

    @property
    def database(self) -> str:
        """SQLAlchemy URL of the registry."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'registry.db'}"

    @property
    def resident_bytes(self) -> int:
        """Bytes that residents may take together."""
        return memory_limit() // 4 if self.max_resident_bytes is None else self.max_resident_bytes

    @property
    def training_dir(self) -> Path:
        """Files to train on, and the directories of runs. Absolute: other processes are told of what lies there."""
        return self.data_dir.absolute() / "training"

    @property
    def runs_dir(self) -> Path:
        """The directories of runs, one a job."""
        return self.training_dir / "runs"

    @property
    def resource_limits(self) -> ResourceLimits:
        """What inspecting, compiling or merging may take: twice its seconds on the wall, where cores are shared."""
        return ResourceLimits(self.max_compile_bytes, cpu_s=self.max_compile_s, wall_s=2.0 * self.max_compile_s)

    @property
    def source_rules(self) -> SourceRules:
        """What the server may read on behalf of its callers."""
        return SourceRules(self.source_dirs, self.source_buckets, self.hub_endpoint, self.hub_token)

    @property
    def is_reachable_from_outside(self) -> bool:
        """True when other machines can reach the address we listen on."""
        return self.host not in {"127.0.0.1", "::1", "localhost"}


def check_exposure(settings: Settings, *, has_keys: bool) -> None:
    """Refuse to serve other machines without API keys unless the operator said so.

    Raises:
        ExposedWithoutKeys: with both ways out.
    """
    if settings.is_reachable_from_outside and not has_keys and not settings.allow_anonymous:
        raise ExposedWithoutKeys(
            f"{settings.host} is reachable from other machines and no API key exists: run `patchbay keys create NAME "
            "--scope admin` first, or pass --allow-anonymous"
        )


def read_settings(**given: object) -> Settings:
    """Build the settings of this process from flags (``given``, None: not said) and the environment.

    Raises:
        UnknownSetting: the environment has a ``PATCHBAY_…`` variable that names no setting.
        pydantic.ValidationError: a value is out of range; names the field.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    client_variables = {PREFIX + "URL", PREFIX + "API_KEY"}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known | client_variables:
            raise UnknownSetting(f"{variable} is no setting of patchbay; known: {', '.join(sorted(known))}")
    said = {name: value for name, value in given.items() if value is not None}
    if HUB_TOKEN in os.environ and PREFIX + "HUB_TOKEN" not in os.environ:
        said.setdefault("hub_token", os.environ[HUB_TOKEN])
    return Settings(**said)  # type: ignore[arg-type]  # pydantic checks each value


class ClientSettings(BaseSettings):
    """Where the command line finds a running server."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    url: str = "http://127.0.0.1:8000"
    api_key: str | None = None

    @property
    def base_url(self) -> str:
        """The server's root: ``url`` may end in ``/v1``, as OpenAI's clients are given it."""
        return self.url.rstrip("/").removesuffix("/v1")
