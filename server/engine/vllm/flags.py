"""vLLM's own flags, passed through ``patchbay serve``: vLLM parses them; those that patchbay sets are refused."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from server.engine.protocol import StartRefused
from trainer.renderer_options import RendererOptions

OWNED = {
    "--enable-lora": "it is always on",
    "--max-cpu-loras": "use --max-residents",
    "--lora-modules": "use `patchbay adapters push`",
    "--model": "name the model as the argument of `patchbay serve`",
    "--api-key": "use `patchbay keys create`",
    "--disable-log-stats": "patchbay meters adapters with these statistics",
    "--api-server-count": "one patchbay process serves one engine",
    "--data-parallel-size": "start one patchbay per replica",
    "--headless": "patchbay serves HTTP",
    "--grpc": "patchbay serves HTTP",
    "--worker-extension-cls": "patchbay loads adapters through it",
    "--uds": "patchbay listens on --host and --port",
    "--ssl-keyfile": "terminate TLS in front of patchbay",
    "--ssl-certfile": "terminate TLS in front of patchbay",
}
"""Flags of vLLM's server that conflict with patchbay, and what to use instead."""

EMBEDDED_FLAGS = (
    *("--served-model-name", "embedded-base"),
    "--enforce-eager",  # compiling takes longer than it saves on three million parameters
    *("--kv-cache-memory-bytes", str(256 * 2**20)),  # else vLLM claims nearly all memory of the machine
)
"""The flags of the embedded base; flags typed by the operator come later and win."""

SLOTS = 8
"""Default of ``--max-loras``. With vLLM's own, one, a cold adapter waits for every stream of another to end."""

WORKER_EXTENSION = "server.engine.vllm.preparation.WorkerExtension"

SPARE_HOST_ADAPTERS = 4
"""vLLM's own LRU holds this many more than ``capacity``, so that it never evicts: trial loads fit in between."""


def parse_flags(model: str, flags: Sequence[str], *, capacity: int) -> Namespace:
    """Return vLLM's parsed arguments for ``model``, with LoRA enabled for ``capacity`` residents. Imports vLLM.

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
        args: Namespace = parser.parse_args([model, *flags])
        for flag, replacement in OWNED.items():  # by value: a flag has short forms, and --config sets any
            dest = flag.removeprefix("--").replace("-", "_")
            if getattr(args, dest) != parser.get_default(dest):
                raise StartRefused(f"{flag} is patchbay's to set: {replacement}")
        args.model = model
        args.enable_lora = True
        args.worker_extension_cls = WORKER_EXTENSION
        args.max_cpu_loras = capacity + args.max_loras + SPARE_HOST_ADAPTERS
        validate_parsed_serve_args(args)
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

    options = {name: getattr(args, name) for name in RendererOptions.model_fields}
    try:
        options["chat_template"] = load_chat_template(args.chat_template)
    except (OSError, ValueError) as wrong:
        raise StartRefused(f"vLLM's flags: --chat-template: {wrong}") from wrong
    options["default_chat_template_kwargs"] = resolve_default_chat_template_kwargs(args)
    if options["tokenizer"] in (args.model, None):
        options["tokenizer"] = None
    return RendererOptions(**options)


def print_engine_help() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    make_arg_parser(FlexibleArgumentParser(prog="patchbay serve")).print_help()
