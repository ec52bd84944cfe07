"""Limits an account's requests and tokens a minute, and its requests at once. Windows are fixed, of one minute.

Tokens are charged when a generation has ended, as counted then: a request is refused only once the tokens of earlier
ones have reached the limit. Each server counts by itself.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Final

from server.access.caller import Caller
from server.accounts.limit_store import LimitedAccount, LimitStore
from server.errors import RateLimited

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.aio.strategies import FixedWindowRateLimiter

_KINDS: Final = ("requests", "tokens")


class RateLimits:
    """The counts of this server. Callers without limits cost a look-up."""

    def __init__(self, store: LimitStore) -> None:
        self._store = store
        self._running: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def request(self, caller: Caller) -> AsyncIterator[Mapping[str, str]]:
        """Count one request of ``caller``, which runs for the length of the block; yields OpenAI's headers.

        Raises:
            RateLimited: a limit of its key or its project is reached.
        """
        accounts = self._store.of(caller.key_id, caller.project)
        if not accounts:
            yield {}
            return
        for account in accounts:
            self._check_running(account)
        headers = await self._count(accounts)
        names = [(account.kind, account.id) for account in accounts]
        self._running.update(names)
        try:
            yield headers
        finally:
            self._running.subtract(names)
            for name in names:
                if not self._running[name]:
                    del self._running[name]

    async def charge(self, caller: Caller, tokens: int) -> None:
        """Charge the tokens of a generation that has ended."""
        if not tokens:
            return
        for account in self._store.of(caller.key_id, caller.project):
            if account.limits.tokens_per_minute is not None:
                item = _a_minute(account.limits.tokens_per_minute)
                await self._windows.hit(item, "tokens", account.kind, account.id, cost=tokens)

    def _check_running(self, account: LimitedAccount) -> None:
        limit = account.limits.concurrent_requests
        if limit is not None and self._running[account.kind, account.id] >= limit:
            raise RateLimited(
                f"{limit} requests of {account.named} are being answered, its limit of concurrent requests; send "
                "the request when one of them has ended",
            )

    async def _count(self, accounts: Sequence[LimitedAccount]) -> dict[str, str]:
        """Count a request in every window; return the headers of the windows with the least left."""
        headers: dict[str, str] = {}
        exceeded: list[_Window] = []
        for kind in _KINDS:
            limited = [account for account in accounts if _limit(kind, account) is not None]
            windows = [await self._window(kind, account) for account in limited]
            if windows:
                headers |= min(windows, key=lambda window: window.remaining).headers()
            exceeded += (window for window in windows if window.is_exceeded)
        if exceeded:
            window = exceeded[0]
            raise RateLimited(
                f"{window.account.named} has used its {window.limit} {window.kind} a minute; try again in "
                f"{window.reset_s} s",
                retry_after_s=window.reset_s,
                headers=headers,
            )
        return headers

    async def _window(self, kind: str, account: LimitedAccount) -> _Window:
        limit = _limit(kind, account)
        assert limit is not None
        item, names = _a_minute(limit), (kind, account.kind, account.id)
        is_counted = kind != "requests" or await self._windows.hit(item, *names)
        stats = await self._windows.get_window_stats(item, *names)
        reset_s = max(1, math.ceil(stats.reset_time - time.time()))
        is_exceeded = not is_counted or (kind == "tokens" and stats.remaining <= 0)
        return _Window(kind, account, limit, max(0, stats.remaining), reset_s, is_exceeded)

    @cached_property
    def _windows(self) -> FixedWindowRateLimiter:
        from limits.aio.storage import MemoryStorage  # here: most servers have no limits, and start sooner without it
        from limits.aio.strategies import FixedWindowRateLimiter

        return FixedWindowRateLimiter(MemoryStorage())


@dataclass(frozen=True, slots=True)
class _Window:
    """The current minute of an account."""

    kind: str
    account: LimitedAccount
    limit: int
    remaining: int
    reset_s: int
    is_exceeded: bool

    def headers(self) -> dict[str, str]:
        """Return OpenAI's headers for this window."""
        return {
            f"x-ratelimit-limit-{self.kind}": str(self.limit),
            f"x-ratelimit-remaining-{self.kind}": str(self.remaining),
            f"x-ratelimit-reset-{self.kind}": f"{self.reset_s}s",
        }


@lru_cache
def _a_minute(limit: int) -> RateLimitItem:
    from limits import RateLimitItemPerMinute

    return RateLimitItemPerMinute(limit)


def _limit(kind: str, account: LimitedAccount) -> int | None:
    limit: int | None = getattr(account.limits, f"{kind}_per_minute")
    return limit
