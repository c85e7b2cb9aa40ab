"""Trying again: how often, with which pauses, and when not."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.files.remote.retries import Patience, retried


class Clock:
    """Time that passes while somebody sleeps, and with each attempt."""

    def __init__(self, seconds_per_attempt: float = 0.0) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.seconds_per_attempt = seconds_per_attempt

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def run(outcomes, patience, clock=None, is_passing=lambda error: isinstance(error, OSError)):
    """Try what has these outcomes; return the result, and the clock."""
    clock, left = clock or Clock(), iter(outcomes)

    async def attempt():
        clock.now += clock.seconds_per_attempt
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    result = asyncio.run(
        retried(attempt, is_passing=is_passing, patience=patience, sleep=clock.sleep, clock=lambda: clock.now)
    )
    return result, clock


def test_what_passes_is_tried_again_after_pauses_that_double():
    result, clock = run([OSError()] * 4 + ["fine"], Patience(attempts=5, first_delay=1, longest_delay=6))
    assert result == "fine"
    assert len(clock.slept) == 4
    for slept, longest in zip(clock.slept, [1, 2, 4, 6], strict=True):
        assert longest / 2 <= slept <= longest


def test_what_does_not_pass_is_not_tried_again():
    clock = Clock()
    with pytest.raises(ValueError, match="no"):
        run([ValueError("no"), "fine"], Patience(), clock)
    assert clock.slept == []


def test_the_last_failure_is_what_is_said_in_the_end():
    clock = Clock()
    with pytest.raises(OSError, match="third"):
        run([OSError("first"), OSError("second"), OSError("third"), "fine"], Patience(attempts=3), clock)
    assert len(clock.slept) == 2


def test_no_attempt_begins_after_the_time_is_over():
    clock = Clock(seconds_per_attempt=10)
    with pytest.raises(OSError, match="again"):
        run([OSError("again")] * 100, Patience(attempts=100, first_delay=1, longest_delay=1, total=35), clock)
    assert clock.now <= 35 + 10


@given(st.integers(1, 20), st.floats(0.001, 5), st.floats(0.001, 60))
def test_pauses_are_within_their_limits(attempts, first, longest):
    delays = list(Patience(attempts=attempts, first_delay=first, longest_delay=longest).delays())
    assert len(delays) == attempts - 1
    assert all(min(first, longest) / 2 <= delay <= longest for delay in delays)


def test_pauses_differ_between_transfers():
    assert len({next(Patience().delays()) for _ in range(20)}) > 1
