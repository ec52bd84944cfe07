"""``lora_path`` of vLLM's load call: a directory of the server, or a repository on the hub."""

import os
from dataclasses import dataclass
from pathlib import Path

from adapters.errors import SourceError, SourceForbidden, SourceNotFound
from adapters.sources.address import is_hub_id, parse_source
from adapters.sources.directory import DirectorySource
from adapters.sources.rules import SourceRules
from adapters.sources.source import Source
from adapters.storage.disk import in_thread
from adapters.storage.staging import Staged


def parse_lora_path(text: str, rules: SourceRules) -> Source:
    """Return the source that vLLM would read for ``text``, or any source by its URL.

    Raises:
        SourceForbidden: it is malformed.
    """
    if "://" in text:
        return parse_source(text, rules)
    if "\0" in text or not text:
        raise SourceForbidden(f"cannot read from {text[:200]!a}: write a directory or org/repo", param="lora_path")
    path = Path(os.path.expanduser(text))
    return DirectorySource(path, rules.directories) if path.is_absolute() else RelativePath(text, rules)


@dataclass(frozen=True, slots=True)
class RelativePath:
    """A path from the working directory or from a source directory; else the id of a hub's repository.

    Whether a directory exists is looked up below source directories alone.
    """

    text: str
    rules: SourceRules

    async def fetch(self, staged: Staged) -> str:
        directories = self.rules.directories
        allowed = await in_thread(self._allowed)
        for path in allowed:
            if await in_thread(path.is_dir):
                return await DirectorySource(path, directories).fetch(staged)
        below = f"below --source-dir ({', '.join(map(str, directories)) or 'none allowed'})"
        if is_hub_id(self.text):
            try:
                return await parse_source(f"hf://{self.text}", self.rules).fetch(staged)
            except SourceError as error:
                message = f"{error.message}; and there is no directory {self.text} {below}"
                raise type(error)(message, param="lora_path") from error
        if allowed:
            raise SourceNotFound(f"there is no directory {self.text} {below}", param="lora_path")
        raise SourceForbidden(f"the server may not read {self.text}: it is no directory {below}", param="lora_path")

    def _allowed(self) -> list[Path]:
        roots = [Path(os.path.realpath(root)) for root in self.rules.directories]
        places = [Path(os.path.realpath(start / self.text)) for start in (Path.cwd(), *roots)]
        return [place for place in places if any(place.is_relative_to(root) for root in roots)]
