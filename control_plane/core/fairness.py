"""Whose turn it is among tenants."""

from collections.abc import Mapping
from typing import Protocol

OrderKey = tuple[int, int, int]
"""Least first: whether it was never dispatched (0 or 1), negated priority, arrival number (negated if newest first)."""


class Fairness(Protocol):
    """Chooses among the tenants that have requests waiting.

    A scheme that keeps counters, such as virtual token counters, learns of work done through `charge`.
    """

    def next_tenant(self, heads: Mapping[str, OrderKey]) -> str:
        """The tenant whose turn it is; `heads` holds each waiting tenant's first request, and is not empty."""

    def charge(self, tenant: str, *, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """A tenant's request was dispatched with a prompt, or ended with output."""


class ArrivalOrder:
    """No fairness: the requests' own order over all tenants."""

    def next_tenant(self, heads: Mapping[str, OrderKey]) -> str:
        """The tenant with the least key; keys never tie, for each holds a request's number."""
        return min(heads, key=heads.__getitem__)

    def charge(self, tenant: str, *, num_prompt_tokens: int, num_output_tokens: int) -> None:
        """Counts nothing."""
