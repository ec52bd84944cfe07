"""What the publisher does to an upload against the base model that is served now: check, canonicalize, compile."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from adapters.checks.base_identity import BaseIdentity
from adapters.checks.canonicalizer import Canonical
from adapters.checks.inspection import AdapterLimits
from adapters.checks.inspector import Inspector
from adapters.checks.tokenizer_notes import tokenizer_notes
from adapters.compile.adapter_compiler import AdapterCompiler
from adapters.lora.canonical_form import CompileReport
from server.current_engine import CurrentEngine
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class UploadChecks:
    """The checks of uploads; each method raises EngineNotReady before the base model has been read.

    ``canonicalize`` needs a running engine: it knows on which modules it computes LoRA.
    """

    engine: CurrentEngine
    settings: Settings
    inspector: Inspector
    compiler: AdapterCompiler

    def check_base(self, adapter: Path) -> None:
        """Refuse the adapter in the directory ``adapter`` if its config names another base model; see BaseIdentity."""
        info = self.engine.info
        BaseIdentity.of(info.served_names, info.directory, info.base.architectures).check(adapter)

    def compare_tokenizer(self, files: Mapping[str, bytes]) -> Iterator[str]:
        """Yield a note for each difference between an adapter's ``files`` and the base's; see ``tokenizer_notes``."""
        return tokenizer_notes(files, self.engine.info.directory)

    async def canonicalize(self, directory: Path, out: Path) -> Canonical:
        """Check the adapter in ``directory`` and write its canonical form into ``out``; see Inspector."""
        info = self.engine.info
        unserved = sorted(self.engine.running().engine.unserved_modules)
        limits = AdapterLimits(info.max_rank, self.settings.max_upload_bytes, unserved)
        return await self.inspector.canonicalize(directory, out, info.base, limits, self.settings.resource_limits)

    async def compile(self, directory: Path, out: Path, compress_to: int | None) -> CompileReport:
        """Compile the adapter in ``directory`` to plain LoRA, written into ``out``; see AdapterCompiler."""
        info = self.engine.info
        return await self.compiler.compile(
            directory,
            out,
            base=info.directory,
            max_rank=info.max_rank,
            compress_to=compress_to,
            resource_limits=self.settings.resource_limits,
        )
