import doctest
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

import tidegate.clock
from tidegate.clock import ReplayClock, WallClock, open_clock
from tidegate.errors import TidegateError

START = datetime(2013, 4, 1, tzinfo=UTC)


@pytest.fixture
def clock(tmp_path: Path) -> ReplayClock:
    return ReplayClock.create(tmp_path / "clocks" / "clock", START)


def test_the_documentation_runs() -> None:
    assert doctest.testmod(tidegate.clock).failed == 0
    assert doctest.testmod(tidegate.clock).attempted > 0


def test_the_wall_clock_tells_the_time_in_utc() -> None:
    before = datetime.now(UTC)

    now = open_clock("wall").now()

    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC
    assert isinstance(open_clock(WallClock().spec), WallClock)


def test_a_still_clock_stands() -> None:
    clock = open_clock("at:2013-04-01T02:00:00+02:00")

    assert clock.now() == clock.now() == datetime(2013, 4, 1, tzinfo=UTC)
    assert clock.spec == "at:2013-04-01T00:00:00+00:00"
    assert open_clock(clock.spec).now() == clock.now()


def test_a_replay_clock_stands_until_it_is_moved(clock: ReplayClock) -> None:
    assert clock.now() == clock.now() == START

    clock.advance(START + timedelta(days=40, microseconds=1))

    assert clock.now() == START + timedelta(days=40, microseconds=1)
    assert clock.now().tzinfo is UTC


def test_it_may_be_moved_to_where_it_is(clock: ReplayClock) -> None:
    clock.advance(START)

    assert clock.now() == START


def test_it_never_runs_backwards(clock: ReplayClock) -> None:
    with pytest.raises(TidegateError, match=r"clock: cannot move back from 2013-04-01T00:00:00\+00:00 to 2013-03-31T23:59:59"):
        clock.advance(START - timedelta(seconds=1))
    assert clock.now() == START


def test_other_time_zones_are_the_same_moments(clock: ReplayClock) -> None:
    clock.advance(datetime(2013, 4, 1, 5, tzinfo=timezone(timedelta(hours=-4))))

    assert clock.now() == datetime(2013, 4, 1, 9, tzinfo=UTC)


def test_a_moment_without_a_time_zone_is_refused(clock: ReplayClock, tmp_path: Path) -> None:
    naive = datetime(2013, 5, 1)  # noqa: DTZ001 (the mistake under test)

    with pytest.raises(TidegateError, match="2013-05-01T00:00:00 has no time zone; event time is UTC"):
        clock.advance(naive)
    with pytest.raises(TidegateError, match="has no time zone"):
        ReplayClock.create(tmp_path / "other", naive)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "moment", [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
)
def test_any_moment_can_be_told(tmp_path: Path, moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)

    assert ReplayClock.create(tmp_path / "clock", moment).now() == moment


def test_another_process_sees_the_advance(clock: ReplayClock) -> None:
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; from tidegate.clock import open_clock; clock = open_clock(sys.argv[1])\n"
         "for _ in sys.stdin: print(clock.now().isoformat(), flush=True)", clock.spec],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert reader.stdin is not None
        assert reader.stdout is not None
        for day in range(3):
            clock.advance(START + timedelta(days=day))
            reader.stdin.write("now\n")
            reader.stdin.flush()
            assert reader.stdout.readline().strip() == (START + timedelta(days=day)).isoformat()
    finally:
        reader.communicate()


def test_another_process_never_sees_half_an_advance(clock: ReplayClock) -> None:
    stride = timedelta(microseconds=2**33 + 12_345)  # every byte of the time changes, most of them at each step
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; from tidegate.clock import open_clock; clock = open_clock(sys.argv[1])\n"
         "seen = set()\nwhile len(seen) < 500: seen.add(clock.now())\n"
         "print(*[moment.isoformat() for moment in seen])", clock.spec],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    step = 0
    while step % 1000 or reader.poll() is None:
        step += 1
        clock.advance(START + step * stride)

    seen = map(datetime.fromisoformat, reader.communicate()[0].split())
    assert [moment for moment in seen if (moment - START) % stride] == []


def test_a_reset_leaves_open_readers_on_the_old_replay(clock: ReplayClock, tmp_path: Path) -> None:
    old = open_clock(clock.spec)

    ReplayClock.create(tmp_path / "clocks" / "clock", START - timedelta(days=90))

    assert old.now() == START
    assert open_clock(clock.spec).now() == START - timedelta(days=90)
    assert os.listdir(tmp_path / "clocks") == ["clock"]  # noqa: PTH208


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "'' is not a clock; use 'wall', 'at:MOMENT' or 'replay:PATH'"),
        ("sundial", "'sundial' is not a clock"),
        ("wall:x", "'wall:x' is not a clock"),
        ("replay:", "'replay:' is not a clock"),
        ("at:", "'' is not a moment; use ISO 8601, such as 2013-04-01T00:00:00Z"),
        ("at:noon", "'noon' is not a moment"),
        ("at:2013-04-01T00:00:00", "2013-04-01T00:00:00 has no time zone"),
        ("replay:/nowhere/clock", "cannot open the replay clock /nowhere/clock: No such file or directory"),
        ("replay:{tmp}", "cannot open the replay clock {tmp}: Is a directory"),
        ("replay:{tmp}/empty", "{tmp}/empty is not a replay clock"),
        ("replay:{tmp}/text", "{tmp}/text is not a replay clock"),
    ],
)
def test_malformed_specs(tmp_path: Path, spec: str, says: str) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("some text")

    with pytest.raises(TidegateError) as caught:
        open_clock(spec.format(tmp=tmp_path))

    assert says.format(tmp=tmp_path) in str(caught.value)


def test_a_spec_means_the_same_clock_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = ReplayClock.create(Path("clock"), START).spec
    monkeypatch.chdir("/")

    assert open_clock(spec).now() == START


def test_a_clock_cannot_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(TidegateError, match=r"^clock: cannot create the replay clock .*/clock: (Not a directory|File exists)$"):
        ReplayClock.create(tmp_path / "file" / "clock", START)
