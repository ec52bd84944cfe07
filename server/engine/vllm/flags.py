"""vLLM's own flags, passed through ``patchbay serve``: vLLM parses them; those that patchbay sets are refused."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from server.engine.protocol import StartRefused
from server.engine.vllm import white_space
from server.slot_plan import SLOTS

if TYPE_CHECKING:
    from trainer.renderer_options import RendererOptions

OWNED: Final = {
    "--enable-lora": "it is always on",
    "--max-cpu-loras": "use --max-residents",
    "--lora-modules": "use `patchbay adapters push`",
    "--model": "name the model as the argument of `patchbay serve`",
    "--api-key": "use `patchbay keys create`",
    "--disable-log-stats": "patchbay meters adapters with these statistics",
    "--api-server-count": "one patchbay process serves one engine",
    "--data-parallel-size": "start one patchbay per replica",
    "--data-parallel-supervisor-port": "start one patchbay per replica",
    "--dp-supervisor-probe-interval-s": "start one patchbay per replica",
    "--dp-supervisor-probe-timeout-s": "start one patchbay per replica",
    "--dp-supervisor-probe-failure-threshold": "start one patchbay per replica",
    "--headless": "patchbay serves HTTP",
    "--grpc": "patchbay serves HTTP",
    "--grpc-port": "patchbay serves HTTP",
    "--worker-extension-cls": "patchbay loads adapters through it",
    "--host": "give it on the command line, or as PATCHBAY_HOST",
    "--port": "give it on the command line, or as PATCHBAY_PORT",
    "--uds": "patchbay listens on --host and --port",
    "--ssl-keyfile": "terminate TLS in front of patchbay",
    "--ssl-certfile": "terminate TLS in front of patchbay",
    "--ssl-ca-certs": "terminate TLS in front of patchbay",
    "--ssl-cert-reqs": "terminate TLS in front of patchbay",
    "--ssl-ciphers": "terminate TLS in front of patchbay",
    "--enable-ssl-refresh": "terminate TLS in front of patchbay",
    "--allowed-origins": "give it on the command line, or as PATCHBAY_ALLOWED_ORIGINS",
    "--allowed-methods": "give it on the command line, or as PATCHBAY_ALLOWED_METHODS",
    "--allowed-headers": "give it on the command line, or as PATCHBAY_ALLOWED_HEADERS",
    "--allow-credentials": "give it on the command line, or as PATCHBAY_ALLOW_CREDENTIALS",
    "--root-path": "patchbay's routes have no prefix: let the proxy remove it from the path",
    "--uvicorn-log-level": "patchbay writes one log of its own",
    "--disable-uvicorn-access-log": "uvicorn writes none here: patchbay logs requests itself",
    "--disable-access-log-for-endpoints": "uvicorn writes none here: patchbay logs requests itself",
    "--disable-fastapi-docs": "/docs and /openapi.json need an admin key as soon as a key exists",
    "--enable-offline-docs": "/openapi.json is the same offline",
    "--h11-max-incomplete-event-size": "patchbay's HTTP server has limits of its own",
    "--h11-max-header-count": "patchbay's HTTP server has limits of its own",
    "--enable-server-load-tracking": "patchbay_requests_in_flight in /metrics counts the requests, by adapter",
    "--enable-flash-late-interaction": "patchbay serves no route that scores documents",
    "--cohere-is-reasoning-model": "patchbay does not serve Cohere's routes",
    "--enable-scale-out": "patchbay does not serve these routes; /tokenize renders a conversation",
    "--tokens-only": "patchbay does not serve these routes; /v1/completions takes token ids as its prompt",
}
"""Flags of vLLM's server that conflict with patchbay or have no effect in it, and what to use instead."""

PASSED: Final = frozenset(
    {
        "--anthropic-disabled-thinking-effort",
        "--chat-template",
        "--chat-template-content-format",
        "--cohere-format",
        "--config",
        "--default-chat-template-kwargs",
        "--enable-auto-tool-choice",
        "--enable-force-include-usage",
        "--enable-log-deltas",
        "--enable-log-outputs",
        "--enable-per-request-metrics",
        "--enable-prompt-tokens-details",
        "--enable-request-id-headers",
        "--enable-tokenizer-info-endpoint",
        "--exclude-tools-when-tool-choice-none",
        "--fingerprint-mode",
        "--fingerprint-value",
        "--log-error-stack",
        "--max-log-len",
        "--middleware",  # around the inference routes
        "--response-role",
        "--return-tokens-as-token-ids",
        "--sse-keep-alive-interval",
        "--tool-call-parser",
        "--tool-parser-plugin",
        "--tool-server",
        "--tool-strict-level",
        "--trust-request-chat-template",
        "--trust-request-mm-kwargs",
    }
)
"""Flags of vLLM's HTTP server that work unchanged. A test demands a decision for each flag: here, or in ``OWNED``."""

EMBEDDED_FLAGS = (
    *("--served-model-name", "embedded-base"),
    "--enforce-eager",  # compiling takes longer than it saves on three million parameters
    *("--kv-cache-memory-bytes", str(256 * 2**20)),  # else vLLM claims nearly all memory of the machine
)
"""The flags of the embedded base; flags typed by the operator come later and win."""

SIZES = ("max_loras", "max_model_len", "gpu_memory_utilization", "kv_cache_memory_bytes")
"""Arguments that are chosen from the memory that is free, where the operator sets none of them."""

WORKER_EXTENSION = "server.engine.vllm.preparation.WorkerExtension"

SPARE_HOST_ADAPTERS = 4
"""vLLM's own LRU holds this many more than ``capacity``, so that it never evicts: trial loads fit in between."""


def parse_flags(model: str, flags: Sequence[str], *, capacity: int) -> Namespace:
    """Return vLLM's parsed arguments for ``model``, with LoRA enabled for ``capacity`` residents. Imports vLLM.

    Their ``undecided`` are the names in ``SIZES`` that no flag has set.

    Raises:
        StartRefused: a flag is unknown, malformed or set by patchbay.
    """
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> NoReturn:  # argparse would print a page of usage and exit
            raise StartRefused(f"vLLM's flags: {message}; `patchbay serve --help-engine` lists them")

    parser = make_arg_parser(Parser())
    parser.set_defaults(max_loras=min(SLOTS, capacity))
    try:
        args: Namespace = parser.parse_args([model, *flags], namespace=Namespace(**dict.fromkeys(SIZES)))
        args.undecided = frozenset(name for name in SIZES if getattr(args, name) is None)
        for name in args.undecided:
            setattr(args, name, parser.get_default(name))
        refused = [
            f"{flag} is patchbay's to set: {replacement}"
            for flag, replacement in OWNED.items()
            if getattr(args, dest_of(flag)) != parser.get_default(dest_of(flag))
        ]  # by value: a flag has short forms, and --config sets any
        if refused:
            raise StartRefused("; ".join(refused))
        args.model = model
        args.enable_lora = True
        args.worker_extension_cls = WORKER_EXTENSION
        args.max_cpu_loras = capacity + args.max_loras + SPARE_HOST_ADAPTERS
        white_space.check_choice(args.structured_outputs_config.backend, " ".join(flags))
        validate_parsed_serve_args(args)
        _check_log_level(args)
    except (OSError, ValueError, TypeError) as wrong:
        raise StartRefused(f"vLLM's flags: {wrong}") from wrong
    return args


def renderer_options(args: Namespace) -> RendererOptions:
    """Return those of vLLM's parsed ``args`` that decide how conversations become prompts.

    Raises:
        StartRefused: ``--chat-template`` is neither a file nor a template.
    """
    from vllm.entrypoints.launchers.cli_args import resolve_default_chat_template_kwargs
    from vllm.renderers.chat_utils import load_chat_template

    from trainer.renderer_options import RendererOptions

    options = {name: getattr(args, name) for name in RendererOptions.model_fields}
    try:
        options["chat_template"] = load_chat_template(args.chat_template)
    except (OSError, ValueError) as wrong:
        raise StartRefused(f"vLLM's flags: --chat-template: {wrong}") from wrong
    options["default_chat_template_kwargs"] = resolve_default_chat_template_kwargs(args)
    if options["tokenizer"] in (args.model, None):
        options["tokenizer"] = None
    return RendererOptions(**options)


def dest_of(flag: str) -> str:
    """Return the attribute of vLLM's arguments that holds the value of ``flag``."""
    return flag.removeprefix("--").replace("-", "_")


def _check_log_level(args: Namespace) -> None:
    """Refuse a log of requests that is written nowhere: vLLM writes it at level INFO."""
    import logging

    if args.enable_log_requests and not logging.getLogger("vllm").isEnabledFor(logging.INFO):
        raise StartRefused("--enable-log-requests has no effect: set VLLM_LOGGING_LEVEL=INFO in the environment too")


def print_engine_help() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    make_arg_parser(FlexibleArgumentParser(prog="patchbay serve")).print_help()
