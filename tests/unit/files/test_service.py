"""Retries after failures of remote file systems."""

import pytest

from sppfeat.files.remote import service
from sppfeat.files.remote.service import retried


@pytest.fixture
def slept(monkeypatch):
    """The pauses so far; only they advance the clock."""
    pauses: list[float] = []
    monkeypatch.setattr(service.time, "monotonic", lambda: sum(pauses))
    return pauses


def run(outcomes, slept):
    left = iter(outcomes)

    def attempt():
        outcome = next(left)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return retried(attempt, pause=slept.append)


def test_temporary_failures_are_retried_after_growing_random_pauses(slept):
    assert run([OSError()] * 7 + ["fine"], slept) == "fine"
    assert len(slept) == 7
    for pause, longest in zip(slept, [0.5, 1, 2, 4, 8, 16, 30], strict=True):
        assert longest / 2 <= pause <= longest
    assert run([OSError(), "fine"], slept) == "fine"
    assert slept[0] != slept[-1]


def test_lasting_failures_are_not_retried(slept):
    with pytest.raises(ValueError, match="no"):
        run([ValueError("no"), "fine"], slept)
    assert slept == []


def test_the_last_failure_is_reported(slept):
    with pytest.raises(OSError, match="eighth"):
        run([OSError("again")] * 7 + [OSError("eighth"), "fine"], slept)


def test_no_attempt_begins_after_three_minutes(slept):
    def attempt():
        slept.append(100.0)
        raise OSError("again")

    with pytest.raises(OSError, match="again"):
        retried(attempt, pause=slept.append)
    assert slept.count(100.0) == 2
