"""Retries after temporary failures: their number, their total time and the pauses between them."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Patience", "retried"]

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Patience:
    """Limits on retries.

    Attributes:
        attempts: the most attempts.
        first_delay: seconds before the second attempt; each pause is twice as long as the last one.
        longest_delay: the longest pause, in seconds.
        total: seconds after which no further attempt begins.
        silence: seconds without a byte after which an attempt is given up.
    """

    attempts: int = 8
    first_delay: float = 0.5
    longest_delay: float = 30.0
    total: float = 180.0
    silence: float = 30.0

    def delays(self) -> Iterator[float]:
        """Yield the pause before each attempt after the first, in seconds, randomly shortened by up to one half.

        The randomness spreads transfers that failed together; all at once, they could bring the server down again.
        """
        for attempt in range(self.attempts - 1):
            yield min(self.first_delay * 2**attempt, self.longest_delay) * random.uniform(0.5, 1)


async def retried(
    attempt: Callable[[], Awaitable[_Value]],
    *,
    is_passing: Callable[[Exception], bool],
    patience: Patience,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> _Value:
    """Repeat an attempt until it succeeds, and return its result.

    Args:
        attempt: makes one attempt.
        is_passing: returns True for a temporary failure; any other is raised at once.
        patience: limits on the retries.
        sleep, clock: replaced by tests.

    Raises:
        Exception: the error of the last attempt.
    """
    began = clock()
    for delay in patience.delays():
        try:
            return await attempt()
        except Exception as error:
            if not is_passing(error) or clock() - began + delay > patience.total:
                raise
        await sleep(delay)
    return await attempt()
