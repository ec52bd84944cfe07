"""Settings of a process, from flags and ``PATCHBAY_…`` variables, which no other file reads."""

import json
import os
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from adapters.processes.limits import ResourceLimits
from adapters.sources.rules import SourceRules
from server.access.issuer_url import check_issuer_url
from server.accounts.limits import Defaults, Limits
from server.gateway.request_bounds import RequestBounds
from server.logs import LogFormat, LogLevel
from server.memory_limit import memory_limit
from trainer.graders.python_processes import PythonBounds

PREFIX = "PATCHBAY_"
DEFAULT_URL = "http://127.0.0.1:8000"
"""Where `patchbay serve` listens, and other commands look for it, if nothing else is said."""
OWN_FILES = 0o077
"""The umask of a server and a worker: what they write, rows of training among it, is read by their user alone."""
HUB_TOKEN = "HF_TOKEN"  # noqa: S105  name of the variable that Hugging Face's own tools read


class UnknownSetting(ValueError):
    """A ``PATCHBAY_…`` variable names no setting: most likely a typo."""


class ExposedWithoutKeys(ValueError):
    """Other machines can reach the address, and requests need no API key."""


class Settings(BaseSettings):
    """What an operator decides. Flags win over the environment, the environment over defaults.

    The command line generates its options from these fields (``server.cli.settings``): their descriptions are its help.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    model: str | None = Field(None, description="Base model: directory or hub id; without it, the embedded base model.")
    engine_flags: tuple[str, ...] = Field((), description="vLLM's own flags, passed to vLLM unchanged.")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port to listen on; 0 picks a free one.")
    allow_anonymous: bool = Field(False, description="Serve other machines without API keys.")

    oidc_issuer_url: str | None = Field(
        None, description="OpenID Connect issuer whose tokens are taken beside API keys; without it, none are."
    )
    oidc_audience: str | None = Field(
        None, validate_default=True, description="Audience (aud) of such tokens: the name of this server there."
    )
    oidc_project_claim: str = Field("project", min_length=1, description="Claim of a token that states the project.")
    oidc_scope_claim: str = Field(
        "scope", min_length=1, description="Claim of a token that states the scopes: a list, or a text with spaces."
    )

    allowed_origins: tuple[str, ...] = Field(
        (), description="Origin whose pages may call, or *; repeatable. Without it, pages on loopback addresses."
    )
    allowed_methods: tuple[str, ...] = Field(("*",), description="Method that such a page may use; repeatable.")
    allowed_headers: tuple[str, ...] = Field(("*",), description="Header that such a page may send; repeatable.")
    allow_credentials: bool = Field(False, description="Let such a page send cookies.")

    data_dir: Path = Field(
        Path(".data"), description="Directory of database, blobs, staging and the list of residents."
    )
    database_url: str | None = Field(
        None, description="sqlite:///… or postgresql://… URL; without it, SQLite in the data directory."
    )
    blob_url: str | None = Field(
        None, description="s3://, gs://, az:// or file:// URL to copy every blob to; without it, none."
    )

    source_dirs: tuple[Path, ...] = Field((), description="Directory that file:// sources may name; repeatable.")
    source_buckets: tuple[str, ...] = Field((), description="URL prefix that bucket sources may name; repeatable.")
    hub_endpoint: str | None = Field(None, description="URL of the Hugging Face hub; without it, huggingface.co.")
    hub_token: str | None = Field(None, repr=False, description="Token for private repositories; without it, HF_TOKEN.")
    max_upload_bytes: int = Field(4 * 2**30, gt=0, description="Largest adapter accepted, in bytes.")
    max_compile_bytes: int = Field(
        8 * 2**30, ge=2**29, description="Memory to inspect, compile or merge adapters, in bytes."
    )
    max_compile_s: int = Field(600, gt=0, description="CPU time to inspect, compile or merge adapters, in seconds.")
    max_file_bytes: int = Field(512 * 2**20, gt=0, description="Largest file accepted by /v1/files, in bytes.")

    keep_versions: int = Field(
        0, ge=0, description="Newest versions of each adapter to keep, beside those that have a name; 0 keeps all."
    )
    keep_in_place: int = Field(
        4, ge=0, description="Newest versions to keep of those that vLLM's load call published in place; 0 keeps all."
    )
    keep_for_s: float = Field(0.0, ge=0, description="Seconds to keep a version in any case.")

    max_residents: int = Field(64, ge=2, description="Adapters that the engine holds in host memory at once.")
    max_resident_bytes: int | None = Field(
        None, gt=0, description="Size of all residents' files, in bytes; without it, a quarter of the machine's memory."
    )
    load_wait_s: float = Field(30.0, gt=0, description="Seconds that a request waits for its adapter to be loaded.")
    max_in_flight: int = Field(
        1024,
        ge=1,
        description="Inference requests at once, at most 3/4 of them for one model or project; others get status 429.",
    )
    max_body_bytes: int = Field(
        16 * 2**20, ge=2**16, description="Largest body of a request in bytes, uploads aside; 32 times as many at once."
    )
    max_n: int = Field(64, ge=1, description="Answers to one prompt that a request may ask for (n).")
    max_prompts: int = Field(256, ge=1, description="Prompts of one request.")
    max_grammar_bytes: int = Field(
        64 * 2**10, ge=2**10, description="Largest JSON schema, grammar or regular expression of a request, in bytes."
    )
    request_timeout_s: float = Field(
        3600.0, gt=0, description="Seconds from a request to the end of its answer, after which it is given up (504)."
    )
    turn_s: float = Field(1.0, gt=0, description="Seconds that an adapter keeps its slot at least while another waits.")

    probe_reference: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compare each published adapter with PEFT in float32 on the CPU; auto: if the base model then "
        "needs less than a quarter of the machine's memory.",
    )

    max_responses: int = Field(
        10_000,
        ge=0,
        description="Newest responses of each project that are kept for retrieval and previous_response_id; 0: none.",
    )
    max_response_age_s: float = Field(30 * 24 * 3600.0, gt=0, description="Seconds for which a response is kept.")

    worker: bool = Field(True, description="Run fine-tuning jobs beside the server.")
    integrations: tuple[Literal["wandb"], ...] = Field((), description="Tracker that jobs may report to; repeatable.")
    max_check_s: float = Field(3600.0, gt=0, description="Seconds that the check of one job's files may take.")
    keep_runs_s: float = Field(
        7 * 86400.0,
        ge=0,
        description="Seconds that the directory of a run is kept after its job has ended; its training rows and "
        "optimizer state go before.",
    )
    train_processes: int = Field(1, ge=1, description="Processes of a training run, one per GPU.")

    python_graders: bool = Field(
        False, description="Run the code of callers' python graders, in a sandbox: bubblewrap or user namespaces."
    )
    max_grader_processes: int = Field(
        2, ge=1, description="Python graders at once, and as many checks of answers against JSON schemas."
    )
    max_grader_s: float = Field(10.0, gt=0, description="Seconds that a python grader may take for one sample.")
    max_grader_bytes: int = Field(2**30, ge=2**27, description="Memory of a python grader, in bytes.")

    lame_duck_s: float = Field(
        0.0, ge=0, description="Seconds after SIGTERM in which /ready is 503 and requests are still taken."
    )
    drain_s: float = Field(30.0, ge=0, description="Seconds that shutdown (SIGTERM) waits for requests in flight.")
    engine_stall_s: float = Field(
        300.0, gt=0, description="Seconds without an answer of the engine's processes after which it is rebuilt."
    )
    max_engine_deaths: int = Field(
        5, ge=1, description="Engine deaths within the window that end the server (exit 70)."
    )
    engine_death_window_s: float = Field(600.0, gt=0, description="Seconds over which engine deaths are counted.")

    key_limits: tuple[str, ...] = Field(
        (),
        description="Limit of each API key without one of its own, such as tokens_per_minute=60000; repeatable. "
        "Others: requests_per_minute, concurrent_requests, training_minutes_per_day.",
    )
    project_limits: tuple[str, ...] = Field(
        (),
        description="Limit of each project without one of its own, such as stored_bytes=10000000000; repeatable. "
        "Others: those of --key-limit, resident_bytes.",
    )

    follow_interval_s: float = Field(0.5, gt=0, description="Seconds between reads of other processes' changes.")
    sweep_interval_s: float = Field(3600.0, gt=0, description="Seconds between removals of blobs without a version.")
    sweep_grace_s: float = Field(3600.0, ge=60, description="Seconds to keep a blob whose publication may still run.")

    metric_adapters: int = Field(
        200, ge=0, description="Adapters with metric series of their own; others share '(other)' until one is deleted."
    )
    log_format: LogFormat = Field("text", description="Format of log lines: for a person, or one object per event.")
    log_level: LogLevel = Field(
        "info", description="Least level of patchbay's log lines; debug shows vLLM's and other libraries' lines too."
    )
    access_log: bool = Field(
        True, description="Log each request; as text without those for /health, /ready and /metrics."
    )
    fault_at: str | None = Field(None, description="For crash tests: end the process at this crash point.")

    @field_validator("allowed_origins", "allowed_methods", "allowed_headers", mode="before")
    @classmethod
    def _read_lists(cls, value: object) -> object:
        """Take vLLM's spelling too, where one item of the list is a JSON list."""
        if not isinstance(value, list | tuple):
            return value
        items = (json.loads(item) if str(item).startswith("[") else [item] for item in value)
        return tuple(chain.from_iterable(items))

    @field_validator("oidc_issuer_url")
    @classmethod
    def _is_issuer_url(cls, value: str | None) -> str | None:
        if value is not None and find_spec("joserfc") is None:
            raise ValueError("tokens need a library that is not installed; pip install 'patchbay[oidc]' installs it")
        return value if value is None else check_issuer_url(value)

    @field_validator("oidc_audience")
    @classmethod
    def _has_audience(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("oidc_issuer_url") is not None and not value:
            raise ValueError("tokens that the issuer made for other servers must not pass here: name the audience")
        if info.data.get("oidc_issuer_url", "") is None and value is not None:
            raise ValueError("an audience without --oidc-issuer-url has no effect: name both")
        return value

    @field_validator("key_limits", "project_limits")
    @classmethod
    def _are_limits(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        Limits.parse(value).check_kind("key" if info.field_name == "key_limits" else "project")
        return value

    @property
    def default_limits(self) -> Defaults:
        """Limits of keys and projects that have none of their own."""
        return {"key": Limits.parse(self.key_limits), "project": Limits.parse(self.project_limits)}

    @property
    def database(self) -> str:
        """URL of the registry's database."""
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir.absolute() / 'registry.db'}"

    @property
    def request_bounds(self) -> RequestBounds:
        """What one request may ask for."""
        return RequestBounds(self.max_n, self.max_prompts, max(1, self.max_in_flight // 2), self.max_grammar_bytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes that the files of all residents may take together."""
        return memory_limit() // 4 if self.max_resident_bytes is None else self.max_resident_bytes

    @property
    def training_dir(self) -> Path:
        """Directory of uploaded files and of training runs. Absolute, because child processes receive its paths."""
        return self.data_dir.absolute() / "training"

    @property
    def runs_dir(self) -> Path:
        """Directory with one subdirectory per fine-tuning job."""
        return self.training_dir / "runs"

    @property
    def resource_limits(self) -> ResourceLimits:
        """Limits of inspecting, compiling or merging. Wall time is twice CPU time, because cores are shared."""
        return ResourceLimits(self.max_compile_bytes, cpu_s=self.max_compile_s, wall_s=2.0 * self.max_compile_s)

    @property
    def grader_bounds(self) -> PythonBounds:
        """What python graders may take."""
        return PythonBounds(self.max_grader_processes, self.max_grader_s, self.max_grader_bytes)

    @property
    def source_rules(self) -> SourceRules:
        """Places that clients may have the server read adapters from."""
        return SourceRules(self.source_dirs, self.source_buckets, self.hub_endpoint, self.hub_token)

    @property
    def is_reachable_from_outside(self) -> bool:
        """True if other machines can reach the address."""
        return self.host not in {"127.0.0.1", "::1", "localhost"}


def check_exposure(settings: Settings, *, is_open: bool) -> None:
    """Refuse an address that other machines can reach if there are no API keys, unless ``allow_anonymous`` is set.

    Raises:
        ExposedWithoutKeys: names both ways out.
    """
    if settings.is_reachable_from_outside and is_open and not settings.allow_anonymous:
        raise ExposedWithoutKeys(
            f"{settings.host} is reachable from other machines and no API key exists: run `patchbay keys create NAME "
            "--scope admin` first, or pass --allow-anonymous"
        )


def read_settings(**flags: object) -> Settings:
    """Return the settings of this process from ``flags`` (None: not given) and the environment.

    Raises:
        UnknownSetting: a ``PATCHBAY_…`` variable names no setting.
        pydantic.ValidationError: a value is malformed or out of range; names the field.
        pydantic_settings.SettingsError: a variable that holds a list is not JSON; names the field.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    client_variables = {PREFIX + name.upper() for name in ClientSettings.model_fields}
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX) and variable not in known | client_variables:
            raise UnknownSetting(f"{variable} is not a setting of patchbay; known: {', '.join(sorted(known))}")
    values = {name: value for name, value in flags.items() if value is not None}
    if HUB_TOKEN in os.environ and PREFIX + "HUB_TOKEN" not in os.environ:
        values.setdefault("hub_token", os.environ[HUB_TOKEN])
    return Settings(**values)  # type: ignore[arg-type]  # pydantic checks each value


class ClientSettings(BaseSettings):
    """How commands reach a running server."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    url: str = DEFAULT_URL
    api_key: str | None = None

    @property
    def base_url(self) -> str:
        """The server's root: ``url`` may end in ``/v1``, the form that OpenAI's clients take."""
        return self.url.rstrip("/").removesuffix("/v1")
