"""The progress line and the verdict say what is going on."""

from __future__ import annotations

import pytest

from vtok import console
from vtok.console import Progress, short


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("vtok.console.time", made)
    return made


def test_rates_rejects_and_the_time_left(clock: Clock) -> None:
    bar = Progress("shard", 100, "clips", 50.0)
    bar.skip(20, 10.0)
    clock.now += 8
    bar.advance(40, cost=30.0, frames=16_000, size=80_000_000, rejects={"timeout": 1, "corrupt": 2})
    assert bar.line() == (
        "shard 60/100 clips  5.0 clips/s  2.0k frames/s  10.0 MB/s  rejected 3 (corrupt 2, timeout 1)  eta 3s"
    ), "the dear ones went first: 10 of 50 are left, at 30 in 8 s"


def test_without_costs_items_count(clock: Clock) -> None:
    bar = Progress("x", 10, "files")
    assert bar.line().endswith("rejected 0  eta ?")
    clock.now += 2
    bar.advance(5)
    assert bar.line() == "x 5/10 files  2.5 files/s  rejected 0  eta 2s"


def test_the_verdict_names_what_workers_do_most(clock: Clock) -> None:
    bar = Progress("shard", 10, "clips")
    clock.now += 50
    bar.advance(10, phases={"decode": 60.0, "encode": 30.0, "write": 0.1}, busy=95.0)
    said = bar.verdict(available=100.0)
    assert said == "shard: 10 clips in 50s (0.2/s); bottleneck: decode (workers busy 95%: decode 63%, encode 32%)"
    assert "too little work for the workers" in bar.verdict(available=400.0)


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0.42, "0.4"), (12.34, "12.3"), (812.4, "812"), (13_000, "13.0k"), (2.1e6, "2.1M"), (3e9, "3000.0M")],
)
def test_short_rates(rate: float, text: str) -> None:
    assert short(rate) == text


def test_names_of_files_cannot_command_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("a\x1b[2Jb\rc\x9bd ü 日本\ttwo\nlines")
    console.note("\x07")
    assert capsys.readouterr() == ("a\\x1b[2Jb\\x0dc\\x9bd ü 日本\ttwo\nlines\n", "\\x07\n")
    assert console.name("a\nb\tc.mp4") == "a\\nb\\tc.mp4"
