"""A rollout killed at any write, and run again, ends as if it had not been killed."""

from collections.abc import Callable

import pytest

from tidegate.rollout.rollout import abort_rollout, promote_rollout, reconcile, rollout_history

NAME = "flights-late"


def prepare_good(make_bench):
    bench = make_bench(steps=[5, 100])
    bench.world.requests_per_second = 10_000
    return bench


def prepare_failing(make_bench):
    bench = make_bench(steps=[5, 100])
    bench.world.behaviour("v2").error_rate = 1.0
    return bench


def prepare_unready(make_bench):
    bench = make_bench(steps=[5, 100])
    bench.world.behaviour("v2").ready = False
    return bench


def prepare_first(make_bench):
    return make_bench(deployed=False)


def prepare_unready_first(make_bench):
    bench = make_bench(deployed=False)
    bench.world.behaviour("v2").ready = False
    return bench


def prepare_replacing(make_bench):
    return make_bench(strategy="replace")


def prepare_unready_replacing(make_bench):
    bench = make_bench(strategy="replace")
    bench.world.behaviour("v2").ready = False
    return bench


def run_again(bench):
    bench.start(2)
    bench.run()


def reconcile_and_run_again(bench):
    reconcile(**bench.places)
    bench.start(2)
    bench.run()


def summary(bench):
    service = bench.world.target.service
    record = rollout_history(bench.store, NAME)[-1]
    return (
        record.state,
        service and (service.stable.name, service.canary, service.canary_percent),
        bench.champion,
        [event.version for event in bench.registry.events(NAME) if event.kind == "alias-moved"],
    )


def kill(bench, make_faults, count, *, after, action: Callable) -> bool:
    """Run `action` and kill it at call number `count`; tell whether it was killed."""
    faults = make_faults(kill_at=count, after=after)
    try:
        action(bench.with_faults(faults))
    except BaseException as error:
        if type(error).__name__ != "Killed":
            raise
        return True
    return False


SCENARIOS = [
    pytest.param(prepare_good, ("promoted", ("v2", None, 0), 2, [1, 2]), id="good-canary"),
    pytest.param(prepare_failing, ("rolled_back", ("v1", None, 0), 1, [1]), id="failing-canary"),
    pytest.param(prepare_unready, ("rolled_back", ("v1", None, 0), 1, [1]), id="canary-never-ready"),
    pytest.param(prepare_first, ("promoted", ("v2", None, 0), 2, [2]), id="first-release"),
    pytest.param(prepare_unready_first, ("rolled_back", None, None, []), id="first-release-never-ready"),
    pytest.param(prepare_replacing, ("promoted", ("v2", None, 0), 2, [1, 2]), id="replacement"),
    pytest.param(prepare_unready_replacing, ("rolled_back", ("v1", None, 0), 1, [1]), id="replacement-never-ready"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before-the-call", "after-the-call"])
@pytest.mark.parametrize("recover", [run_again, reconcile_and_run_again])
@pytest.mark.parametrize(("prepare", "expected"), SCENARIOS)
def test_killed_anywhere_it_ends_as_if_it_had_not_been(make_bench, make_faults, prepare, expected, recover, after):
    for count in range(1, 200):
        bench = make_named(make_bench, prepare, count)

        if not kill(bench, make_faults, count, after=after, action=run_again):
            assert summary(bench) == expected
            break
        if rollout_history(bench.store, NAME) and rollout_history(bench.store, NAME)[-1].finished:
            assert summary(bench) == expected
            continue
        recover(bench)

        assert summary(bench) == expected, f"killed at call {count}"
    assert count > 8


@pytest.mark.parametrize("after", [False, True], ids=["before-the-call", "after-the-call"])
@pytest.mark.parametrize(
    ("decide", "states"),
    [
        pytest.param(abort_rollout, {"rolled_back", "promoted"}, id="abort"),
        pytest.param(promote_rollout, {"promoted"}, id="promote"),
    ],
)
def test_killed_anywhere_it_can_be_ended_by_hand(make_bench, make_faults, decide, states, after):
    ended = set()
    for count in range(1, 200):
        bench = make_named(make_bench, prepare_good, count)
        if not kill(bench, make_faults, count, after=after, action=run_again):
            break
        records = rollout_history(bench.store, NAME)
        if not records or records[-1].finished or (decide is promote_rollout and records[-1].state == "pending"):
            continue

        decide(**bench.places, reason="test")

        state, running, champion, _ = summary(bench)
        ended.add(state)
        version = 2 if state == "promoted" else 1
        assert (running, champion) == ((f"v{version}", None, 0), version), f"killed at call {count}"
    assert ended == states


def test_killed_while_aborting_it_is_aborted_by_the_next_run(make_bench, make_faults):
    for count in range(1, 200):
        bench = make_named(make_bench, prepare_good, count)
        bench.start(2)
        reconcile(**bench.places)

        def abort(killed):
            abort_rollout(**killed.places, reason="test")

        was_killed = kill(bench, make_faults, count, after=True, action=abort)
        record = bench.run()

        assert (record.state, record.outcome) == ("rolled_back", "aborted: test")
        assert summary(bench)[1:3] == (("v1", None, 0), 1)
        if not was_killed:
            break
    assert count > 3


def make_named(make_bench, prepare, count):
    return prepare(lambda **options: make_bench(folder=f"bench{count}", **options))
