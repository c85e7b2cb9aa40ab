"""Turns, medians and budgets, measured with a clock that the tests set."""

import torch

from sppfeat.bench import timing as timing_module
from sppfeat.bench.timing import counted_passes, interleave, timed


class Clock:
    """A clock that only contenders advance."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def contender(self, name, seconds, *, pieces=1):
        """Makes a contender whose runs take these seconds, one after the other, in equal pieces."""
        left = iter(seconds)

        def run():
            self.calls.append(name)
            total = next(left)
            for _ in range(pieces):
                self.now += total / pieces
                yield

        return run


def timing(*values):
    return dict(zip(("seconds", "fastest", "slowest", "repetitions"), values, strict=True))


def test_contenders_take_turns_after_one_warm_up_each():
    clock = Clock()
    passes = [
        timed(name, clock.contender(name, seconds), clock=clock)
        for name, seconds in {"a": [99, 3, 1, 2], "b": [99, 10, 30, 20], "c": [99, 5, 5, 5]}.items()
    ]
    found = interleave(passes, repetitions=3)
    assert "".join(clock.calls) == "abc" * 4
    assert found == {"a": timing(2, 1, 3, 3), "b": timing(20, 10, 30, 3), "c": timing(5, 5, 5, 3)}


def test_a_pass_over_the_budget_stops_at_its_next_piece_without_a_result():
    clock = Clock()
    slow = timed("slow", clock.contender("slow", [40], pieces=10), clock=clock, budget=10)
    assert slow() == {}
    assert clock.now == 12  # the third of ten pieces of 4 seconds
    passes = [
        timed(name, clock.contender(name, seconds, pieces=10), clock=clock, budget=10)
        for name, seconds in {"fast": [1, 1, 1], "slow": [40], "slow later": [1, 1, 40]}.items()
    ]
    n_passes = 0

    def on_pass():
        nonlocal n_passes
        n_passes += 1

    assert list(interleave(passes, repetitions=2, on_pass=on_pass)) == ["fast"]
    assert n_passes == 9


def test_the_last_piece_counts():
    clock = Clock()
    assert timed("slow", clock.contender("slow", [11]), clock=clock, budget=10)() == {}


def test_repetitions_end_with_the_budget_after_one_at_least():
    clock = Clock()
    passes = [
        timed("a", clock.contender("a", [1] * 9), clock=clock, budget=10),
        timed("b", clock.contender("b", [4] * 9), clock=clock, budget=10),
        timed("c", clock.contender("c", [10] * 9), clock=clock, budget=10),
    ]
    found = interleave(passes, repetitions=8, budget=10)
    assert {name: timing["repetitions"] for name, timing in found.items()} == {"a": 8, "b": 3, "c": 2}
    assert interleave(
        [timed("d", clock.contender("d", [9, 9, 9, 9]), clock=clock)], repetitions=3, budget=8
    ) == {"d": timing(9, 9, 9, 1)}


def test_the_device_is_synchronized_before_both_readings_of_the_clock(monkeypatch):
    clock = Clock()

    def contender():
        clock.calls.append("launch")
        yield

    def synchronize(device):
        clock.calls.append(device.type)
        clock.now += 7

    monkeypatch.setattr(timing_module, "synchronize", synchronize)
    found = timed("a", contender, device=torch.device("cuda"), clock=clock)()
    assert clock.calls == ["cuda", "launch", "cuda"]
    assert found == {"a": 7}


def test_a_pass_may_measure_several_things():
    turns = iter([(0, 0), (1, 20), (3, 10), (2, 30)])
    found = interleave([lambda: dict(zip("xy", next(turns), strict=True))], repetitions=3)
    assert found == {"x": timing(2, 1, 3, 3), "y": timing(20, 10, 30, 3)}


def test_passes_are_counted():
    seen = []
    on_pass = counted_passes(2, lambda done, total: seen.append((done, total)))
    on_pass()
    on_pass()
    assert seen == [(0, 2), (1, 2), (2, 2)]
