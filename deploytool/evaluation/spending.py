"""Tokens and money of a hosted API, and the cap that is not crossed: cost is reserved before it is caused."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from deploytool.errors import BadInput, CheckFailed
from deploytool.evaluation.options import HOSTED_MAX_USD
from deploytool.models import HostedApi

# Bytes of UTF-8 in a token: measured texts lie at 3 to 5 for the Latin script and at 2 to 3 for Chinese.
USUAL_BYTES = 3.5
FEWEST_BYTES = 1.5


class OverBudget(CheckFailed):
    code = "over_budget"


class Budget:
    """Counts over all threads. Without a price nothing is capped."""

    def __init__(self, usd_per_million: float | None = None, max_usd: float | None = None) -> None:
        self.price = usd_per_million
        self.max_usd = max_usd
        self.tokens = 0
        self._reserved = 0
        self._lock = threading.Lock()

    @classmethod
    def of(cls, api: HostedApi | None, name: str, max_usd: float | None) -> Budget:
        """BadInput where a cap is asked for and the price is not known."""
        if api is None:
            return cls()
        if api.usd_per_million_tokens is None and max_usd is not None:
            raise BadInput(
                f"the card of {name} has no price, so --max-usd cannot be held",
                hint="write usd_per_million_tokens into the card (`deploytool models show` says where it is)",
            )
        return cls(api.usd_per_million_tokens, max_usd if max_usd is not None else HOSTED_MAX_USD)

    @property
    def usd(self) -> float | None:
        return None if self.price is None else self.tokens * self.price / 1e6

    def estimate(self, texts: Iterable[str]) -> float | None:
        """Dollars that the texts will cost, about."""
        if self.price is None:
            return None
        return sum(len(text.encode("utf-8", "replace")) for text in texts) / USUAL_BYTES * self.price / 1e6

    def check(self, texts: Iterable[str]) -> float | None:
        """The estimate; OverBudget where it is above what is left, before anything is spent."""
        estimate = self.estimate(texts)
        if estimate is None or self.max_usd is None or (self.usd or 0.0) + estimate <= self.max_usd:
            return estimate
        spent = self.usd or 0.0
        already = f"; ${spent:.4f} are spent already" if spent else ""
        raise OverBudget(
            f"embedding would cost about ${estimate:.4f}, more than --max-usd {self.max_usd:g}{already}",
            hint=f"allow it with --max-usd {_rounded_up(spent + estimate * 1.2)}, or take a smaller set",
        )

    def reserve(self, texts: Iterable[str]) -> int:
        """Set aside the most that a request can cost; OverBudget where it could cross the cap."""
        most = sum(int(len(text.encode("utf-8", "replace")) / FEWEST_BYTES) + 2 for text in texts)
        with self._lock:
            if self.price is not None and self.max_usd is not None:
                usd = (self.tokens + self._reserved + most) * self.price / 1e6
                if usd > self.max_usd:
                    raise OverBudget(
                        f"stopped at ${self.usd:.4f}: the next request could cross --max-usd"
                        f" {self.max_usd:g}",
                        hint="what was embedded is kept; the same command with a higher --max-usd goes on",
                    )
            self._reserved += most
        return most

    def settle(self, reserved: int, tokens: int | None) -> None:
        """Replace a reservation by what was counted. A server that does not say costs what was reserved."""
        with self._lock:
            self._reserved -= reserved
            self.tokens += reserved if tokens is None else tokens


def _rounded_up(usd: float) -> str:
    return f"{max(usd, 0.01):.2f}"
