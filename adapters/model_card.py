"""The model card of an exported version: its facts in the registry, for people and for the hub."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from huggingface_hub import ModelCardData

from adapters.gate import VERDICT, verdict_in

_MODEL_ID: Final = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
"""A hub id, which ``base_model`` must be: the hub rejects a card that names a directory."""

_VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that ``--max-lora-rank`` accepts."""

_SHOWN_FIRST: Final = frozenset(
    {
        "rank",
        "target_modules",
        "base_model",
        "base_fingerprint",
        "declared_base",
        "size_bytes",
        "training",
        VERDICT,
        "verdict_missing",
    }
)
"""Parts of a report that other sections of the card show."""

_TRAINING: Final = {
    "job": "job",
    "method": "method",
    "step": "checkpoint at step",
    "seed": "seed",
    "warm_start": "warm start from",
    "trained_tokens": "trained tokens",
    "seconds": "seconds",
    "renderer_sha256": "chat template, sha256",
}
_DATA: Final = {"training_file": "training file, sha256", "validation_file": "validation file, sha256"}

Rows = Iterable[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The card of ``version`` (the JSON of ``GET /v1/adapters/…/versions/…``).

    ``place`` is the path for loaders: the repository, or "." for the card's own directory. ``is_merged``: the files are
    the whole model instead of an adapter; ``is_whole``: the one that was trained, and the version's adapter extracted
    from it.
    """

    version: Mapping[str, Any]
    place: str
    is_merged: bool = False
    is_whole: bool = False

    def text(self) -> str:
        """Return the content of README.md: YAML front matter that the hub accepts, then Markdown."""
        sections = [self._head(), self._training(), self._verdict(), self._checks(), self._usage()]
        return f"---\n{self._front_matter()}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"

    @property
    def base(self) -> str | None:
        """The base model's id on the hub, if the served name or else the adapter's config is one."""
        named = (self._report.get("base_model"), self._report.get("declared_base"))
        return next((name for name in named if isinstance(name, str) and _MODEL_ID.fullmatch(name)), None)

    @property
    def _base_name(self) -> str:
        """The name of the base; of a directory its last part only, as the rest may be private."""
        return self.base or PurePath(self._report["base_model"]).name

    @property
    def _report(self) -> dict[str, Any]:
        return dict(self.version["report"])

    def _front_matter(self) -> str:
        method = self._report.get("training", {}).get("method")
        return ModelCardData(
            base_model=self.base,
            library_name="transformers" if self.is_merged else "peft",
            pipeline_tag="text-generation",
            tags=["lora", "patchbay", *([method] if method else [])],
        ).to_yaml()

    def _head(self) -> str:
        name, report = self.version["id"], self._report
        base, code = _code(self._base_name), _code(name)
        summary = f"A LoRA adapter for the base model {base}: version {code} of a patchbay registry."
        if self.is_merged:
            summary = f"The base model {base} with the LoRA adapter {code} merged into its weights."
        if self.is_whole:
            summary = f"The base model {base}, fine-tuned whole; the adapter {code} is the low-rank part of the change."
        rows = [
            ("adapter", self.version["adapter"]),
            ("version", name),
            ("digest of the adapter", self.version["digest"]),
            ("fine-tuned names", self.version.get("fine_tuned_names")),
            ("base model", self._base_name),
            ("base fingerprint", report.get("base_fingerprint")),
            ("rank", self.version["rank"]),
            ("target modules", report.get("target_modules")),
        ]
        return f"# {self.version['adapter']}\n\n{summary}\n\n{_table(rows)}"

    def _training(self) -> str:
        training = self._report.get("training")
        if not training:
            return ""
        rows = [(label, training.get(key)) for key, label in _TRAINING.items()]
        data = training.get("data") or {}
        rows += [(label, (data.get(key) or {}).get("sha256")) for key, label in _DATA.items()]
        parts = [f"## How it was trained\n\n{_table(rows)}"]
        for title, key in (
            ("Hyperparameters", "hyperparameters"),
            ("Metrics", "metrics"),
            ("Extraction", "extraction"),
        ):
            if table := _table(_flat(training.get(key) or {})):
                parts.append(f"{title}:\n\n{table}")
        return "\n\n".join(parts)

    def _verdict(self) -> str:
        """Return the verdict on held-out rows, with what it was compared with; or why there is none."""
        title, verdict = "## The verdict", verdict_in(self._report)
        if verdict is None:
            reason = self._report.get("verdict_missing", {}).get("reason")
            return f"{title}\n\nNone: {_cell(reason)}" if reason else ""
        of = verdict.get("of", {})
        rows: list[tuple[str, Any]] = [("verdict", verdict["result"]), ("held-out rows", of.get("rows"))]
        for each in of.get("contestants", ()):
            means = each.get("means", {})
            rows += [
                (f"beside {each['name']}: {measure.replace('_', ' ')}", _compared(found, means.get(measure)))
                for measure, found in each.get("differences", {}).items()
            ]
        rows += _flat({name: of.get(name, {}) for name in ("general_ability", "memorisation", "tokens")})
        return f"{title}\n\n{_cell(verdict.get('message', ''))}\n\n{_table(rows)}"

    def _checks(self) -> str:
        table = _table(_flat({key: value for key, value in self._report.items() if key not in _SHOWN_FIRST}))
        title = "## How it was checked\n\nResults of patchbay's checks before the adapter was served:"
        return f"{title}\n\n{table}" if table else ""

    def _usage(self) -> str:
        name, base = self.version["adapter"], self.base or "BASE_MODEL"
        if self.is_merged:
            return _use(
                vllm=f"vllm serve {self.place} --served-model-name {name}",
                python=f'model = AutoModelForCausalLM.from_pretrained("{self.place}", dtype="auto")\n'
                f'tokenizer = AutoTokenizer.from_pretrained("{self.place}")',
                patchbay=f"patchbay serve {self.place}",
            )
        rank = next((rank for rank in _VLLM_RANKS if rank >= self.version["rank"]), self.version["rank"])
        return _use(
            vllm=f"vllm serve {base} --enable-lora --max-lora-rank {rank} --lora-modules {name}={self.place}",
            python=f'model = AutoModelForCausalLM.from_pretrained("{base}", dtype="auto")\n'
            f'model = PeftModel.from_pretrained(model, "{self.place}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
            patchbay=f"patchbay adapters push {self.place} --name {name}",
        )


def _compared(found: Mapping[str, float], mean: float | None) -> str:
    interval = f"{found['mean']:+.3g} ({found['low']:+.3g} to {found['high']:+.3g})"
    return interval if mean is None else f"{interval} to {mean:.3g}"


def _use(*, vllm: str, python: str, patchbay: str) -> str:
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    library = "Transformers"
    if "PeftModel" in python:
        imports, library = f"from peft import PeftModel\n{imports}", "PEFT"
    return (
        f"## How to use it\n\nvLLM:\n\n```bash\n{vllm}\n```\n\n"
        f"{library}:\n\n```python\n{imports}\n\n{python}\n```\n\n"
        f"patchbay:\n\n```bash\n{patchbay}\n```"
    )


def _table(rows: Rows) -> str:
    lines = [f"| {_cell(label)} | {_cell(value)} |" for label, value in rows if value not in (None, "", [], {})]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield numbers, texts and lists of them by their dotted path; nested lists are left out."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not (isinstance(value, list) and any(isinstance(item, list | Mapping) for item in value)):
            yield f"{prefix}{name}", value


def _cell(value: Any) -> str:
    """Return ``value`` as a table's cell, with Markdown and HTML escaped."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    elif isinstance(value, bool):
        value = "yes" if value else "no"
    elif isinstance(value, float):
        value = f"{value:.6g}"
    text = " ".join(html.escape(str(value), quote=False).split())
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text)


def _code(name: Any) -> str:
    return f"`{str(name).replace('`', '')}`"
