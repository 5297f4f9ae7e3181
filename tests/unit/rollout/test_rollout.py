"""Rollouts to their outcome: what is deployed, what the alias says, and what the record tells."""

import pytest

from tidegate.deployment.inference_service import Revision
from tidegate.errors import RegistryError, RolloutError
from tidegate.registry.registry import ANY
from tidegate.rollout.record import RolloutJournal
from tidegate.rollout.rollout import abort_rollout, promote_rollout, reconcile, rollout_history

NAME = "flights-late"


def test_good_canary_is_promoted_step_by_step(bench):
    bench.start(2)

    record = bench.run()

    assert record.state == "promoted"
    assert [service.canary_percent for service in bench.world.target.applied] == [0, 5, 25, 50, 100, 0]
    assert bench.world.target.service.stable.name == "v2"
    assert bench.champion == 2
    assert [transition.percent for transition in record.transitions] == [0, 5, 25, 50, 100, 100, 100]
    assert [transition.reason for transition in record.transitions if transition.reason.startswith("shown good")]
    assert bench.registry.alias(NAME, "champion").reason.startswith(f"rollout {record.rollout_id}")


@pytest.mark.parametrize(
    ("behaviour", "reason", "at_most_looks"),
    [
        pytest.param({"error_rate": 1.0}, "error rate", 1, id="fails-every-request"),
        pytest.param({"error_rate": 0.05}, "error rate", 20, id="fails-one-in-twenty"),
        pytest.param({"median_seconds": 0.02}, "latency", 2, id="ten-times-slower"),
        pytest.param({"silent": True}, "silence", 2, id="gets-no-requests"),
    ],
)
def test_bad_canary_is_rolled_back(bench, behaviour, reason, at_most_looks):
    for name, value in behaviour.items():
        setattr(bench.world.behaviour("v2"), name, value)
    bench.start(2)

    record = bench.run()

    assert record.state == "rolled_back"
    assert record.outcome.startswith(reason)
    assert record.looks_taken <= at_most_looks
    assert (bench.world.target.service.stable.name, bench.world.target.service.canary) == ("v1", None)
    assert bench.champion == 1


def test_canary_that_fails_late_is_rolled_back_at_that_step(bench):
    def break_at_half() -> None:
        if bench.world.target.service.canary_percent == 50:
            bench.world.behaviour("v2").error_rate = 0.5

    bench.world.before_traffic = break_at_half
    bench.start(2)

    record = bench.run()

    assert record.state == "rolled_back"
    assert record.looks[-1].percent == 50


def test_incident_that_hits_both_revisions_is_not_held_against_the_canary(make_bench):
    bench = make_bench(max_step_seconds=600)
    incidents = []

    def incident() -> None:
        rate = 0.3 if bench.world.target.service.canary_percent == 50 and not incidents else 0.0
        incidents.extend([1] if rate else [])
        bench.world.behaviour("v1").error_rate = bench.world.behaviour("v2").error_rate = rate

    bench.world.before_traffic = incident
    bench.start(2)

    record = bench.run()

    assert incidents
    assert record.state == "promoted"


def test_first_release_is_deployed_without_judging(make_bench):
    bench = make_bench(deployed=False)
    bench.start(1, reason="initial")

    record = bench.run()

    assert (record.state, record.looks, bench.champion) == ("promoted", (), 1)
    assert "not judged" in record.outcome
    assert bench.world.target.service.stable.name == "v1"


def test_first_release_that_never_gets_ready_leaves_nothing(make_bench):
    bench = make_bench(deployed=False)
    bench.world.behaviour("v1").ready = False
    bench.start(1)

    record = bench.run()

    assert (record.state, bench.world.target.service, bench.champion) == ("rolled_back", None, None)
    assert "golden sample" in record.outcome


def test_replacing_never_runs_two_revisions(make_bench):
    bench = make_bench(strategy="replace", max_latency_ratio=1.0)
    bench.start(2)

    record = bench.run()

    assert (record.state, record.looks, bench.champion) == ("promoted", (), 2)
    assert "strategy replace" in record.outcome
    assert [(service.stable.name, service.canary) for service in bench.world.target.applied] == [("v2", None)]


def test_replacement_that_never_gets_ready_is_taken_back(make_bench):
    bench = make_bench(strategy="replace")
    bench.world.behaviour("v2").ready = False
    bench.start(2)

    record = bench.run()

    assert (record.state, bench.champion, bench.world.target.service.stable.name) == ("rolled_back", 1, "v1")
    assert "golden sample" in record.outcome


def test_canary_that_never_gets_ready_gets_no_traffic(bench):
    bench.world.behaviour("v2").ready = False
    bench.start(2)

    record = bench.run()

    assert record.state == "rolled_back"
    assert record.outcome.startswith("canary v2 is not ready")
    assert "golden sample" in record.outcome
    assert max(service.canary_percent for service in bench.world.target.applied) == 0


def test_without_traffic_it_waits_and_then_rolls_back_as_undecided(bench):
    bench.world.requests_per_second = 0
    bench.start(2)

    record = bench.run()

    assert record.state == "rolled_back"
    assert record.outcome == "undecided after 60 s at 5 %: no traffic"


def test_unobservable_service_is_rolled_back_as_undecided(bench):
    def go_blind() -> None:
        bench.world.blind = True

    bench.world.after_traffic = go_blind
    bench.start(2)

    record = bench.run()

    assert record.state == "rolled_back"
    assert "the proxy's admin port does not answer" in record.outcome


def test_what_cannot_be_observed_gets_no_traffic(bench):
    bench.world.blind = True
    bench.start(2)

    with pytest.raises(RolloutError, match="admin port does not answer"):
        bench.run()

    assert max(service.canary_percent for service in bench.world.target.applied) == 0
    bench.world.blind = False
    assert bench.run().state == "promoted"


def blind_when_it_begins(bench, percent, *, seconds):
    """Make the service unobservable from the moment the canary is given `percent`, for so long."""
    began = []

    def blink() -> None:
        service = bench.world.target.service
        if service.canary_percent == percent and not began:
            began.append(bench.world.time)
        bench.world.blind = bool(began) and (bench.world.time - began[0]).total_seconds() < seconds

    apply = bench.world.target.apply

    def apply_and_blink(service) -> None:
        apply(service)
        blink()

    bench.world.target.apply = apply_and_blink
    bench.world.before_traffic = blink
    return began


def test_outage_of_the_metrics_when_a_step_begins_is_waited_for(bench):
    began = blind_when_it_begins(bench, 50, seconds=20)
    bench.start(2)

    record = bench.run()

    assert began
    assert record.state == "promoted"


def test_outage_of_the_metrics_that_lasts_ends_the_step(bench):
    blind_when_it_begins(bench, 50, seconds=1e6)
    bench.start(2)

    record = bench.run()

    assert record.state == "rolled_back"
    assert "at 50 %: the proxy's admin port does not answer" in record.outcome


def test_counters_that_restart_lose_nothing(bench):
    def restart_once() -> None:
        if bench.world.slept == 3:
            bench.world.restart_counters()

    bench.world.after_traffic = restart_once
    bench.start(2)

    record = bench.run()

    assert record.state == "promoted"
    assert all(look.evidence.canary_requests >= 0 for look in record.looks)


def test_rollout_straight_to_everything_compares_with_the_past(make_bench):
    bench = make_bench(steps=[100])
    bench.world.send(3000)
    bench.start(2)

    assert bench.run().state == "promoted"


def test_small_lasting_regression_is_not_promoted(bench):
    bench.world.behaviour("v2").error_rate = 0.03
    bench.start(2)

    assert bench.run().state == "rolled_back"


def test_manual_edit_of_the_target_stops_the_rollout_naming_both(bench):
    def edit() -> None:
        if bench.world.slept == 1:
            bench.target.apply(bench.target.service.with_canary(bench.target.service.canary, 77))

    bench.world.after_traffic = edit
    started = bench.start(2)

    with pytest.raises(RolloutError, match=r"v2 at 77 %, but rollout .* set v1 with canary v2 at 5 %"):
        bench.run()
    with pytest.raises(RolloutError, match="at 77 %"):  # and so it stays until someone decides
        bench.run()

    bench.target.apply(bench.target.service.with_canary(bench.target.service.canary, 5))
    assert bench.run(rollout_id=started.rollout_id).state == "promoted"


def test_alias_moved_by_someone_else_stops_the_promotion(bench):
    def move_away() -> None:
        if bench.world.slept == 2:
            bench.registry.move_alias(NAME, "champion", 3, reason="by hand", expected=ANY)

    bench.world.after_traffic = move_away
    bench.start(2)

    with pytest.raises(RolloutError, match=r"cannot move alias champion .* at version 3, not at version 1"):
        bench.run()

    record = abort_rollout(**bench.places, reason="sort it out")
    assert (record.state, bench.world.target.service.stable.name, bench.champion) == ("rolled_back", "v1", 3)


def test_one_rollout_at_a_time(bench):
    first = bench.start(2)

    assert bench.start(2).rollout_id == first.rollout_id
    with pytest.raises(RolloutError, match=f"rollout {first.rollout_id} of flights-late is pending"):
        bench.start(3)

    bench.run()
    assert bench.start(3).rollout_id != first.rollout_id


@pytest.mark.parametrize(
    ("version", "error", "message"),
    [
        pytest.param(1, RolloutError, "runs v1 as its stable revision already", id="stable-already"),
        pytest.param(9, RegistryError, "no version 9", id="unknown-version"),
    ],
)
def test_refuses_to_start(bench, version, error, message):
    with pytest.raises(error, match=message):
        bench.start(version)

    assert rollout_history(bench.store, NAME) == []


def test_refuses_to_start_beside_a_canary_that_no_rollout_owns(bench):
    bench.target.apply(bench.target.service.with_canary(Revision("v3", "file:///x/"), 10))

    with pytest.raises(RolloutError, match="has a canary v3 at 10 % that no rollout owns"):
        bench.start(2)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        pytest.param({"max_error_increase": 0.0}, "max_error_increase", id="no-error-allowance"),
        pytest.param({"max_latency_ratio": 1.05}, "max_latency_ratio", id="finer-than-the-buckets"),
    ],
)
def test_refuses_rules_that_can_never_be_met(make_bench, rules, field):
    with pytest.raises(RolloutError, match=f"rollout.{field} is"):
        make_bench(**rules).start(2)


def test_rules_are_those_of_the_start(make_bench):
    bench = make_bench(steps=[5, 100])
    bench.start(2)

    bench.project = make_bench(folder="edited", steps=[50, 100]).project
    record = bench.run()

    assert {look.percent for look in record.looks} == {5, 100}


def test_abort_rolls_back_and_says_why(bench):
    bench.world.after_traffic = lambda: abort_rollout(**bench.places, reason="wrong week")
    bench.start(2)

    record = bench.run()  # the driver notices that the record changed under it

    assert (record.state, record.outcome) == ("rolled_back", "aborted: wrong week")
    assert bench.world.target.service.canary is None
    with pytest.raises(RolloutError, match="rolled_back already; there is nothing to abort"):
        abort_rollout(**bench.places, reason="again")


def test_interrupt_rolls_back(bench):
    def interrupt() -> None:
        raise KeyboardInterrupt

    bench.world.after_traffic = interrupt
    bench.start(2)

    with pytest.raises(KeyboardInterrupt):
        bench.run()

    record = rollout_history(bench.store, NAME)[-1]
    assert (record.state, record.outcome) == ("rolled_back", "aborted: interrupted")
    assert bench.world.target.service.canary is None


def test_promotion_by_hand_skips_the_judge(bench):
    bench.world.requests_per_second = 0
    bench.world.after_traffic = lambda: promote_rollout(**bench.places, reason="urgent fix")
    bench.start(2)

    record = bench.run()

    assert (record.state, record.outcome) == ("promoted", "promoted by hand: urgent fix")
    assert bench.champion == 2


def test_promotion_by_hand_needs_a_canary_with_traffic(bench):
    bench.start(2)

    with pytest.raises(RolloutError, match="is pending; only one that is progressing can be promoted"):
        promote_rollout(**bench.places, reason="urgent fix")


def test_abort_after_someone_deployed_something_else_leaves_that_alone(bench):
    def replace() -> None:
        service = bench.target.service.with_canary(Revision("v3", "file:///x/"), 10)
        bench.target.service = service.promoted()

    bench.world.after_traffic = replace
    bench.start(2)
    with pytest.raises(RolloutError, match="v3 alone"):
        bench.run()

    record = abort_rollout(**bench.places, reason="v3 is out")

    assert (record.state, bench.world.target.service.stable.name) == ("rolled_back", "v3")


def test_reconcile_leaves_a_rollout_under_way_to_its_driver(bench):
    bench.start(2)

    record = reconcile(**bench.places)

    assert (record.state, record.percent) == ("progressing", 5)
    assert bench.world.target.service.canary_percent == 5
    assert bench.run().state == "promoted"
    assert reconcile(**bench.places).state == "promoted"


def test_nothing_started(bench):
    assert reconcile(**bench.places) is None
    with pytest.raises(RolloutError, match="no rollout has been started"):
        bench.run()
    with pytest.raises(RolloutError, match="no rollout 'x'"):
        RolloutJournal(bench.store, NAME).load("x")


def test_abort_in_the_moment_before_a_step_is_applied_leaves_no_canary(bench):
    class AbortedWhileApplying:
        """Another process aborts between the driver's last check and its `apply`."""

        def __getattr__(self, name):
            return getattr(bench.world.target, name)

        def apply(self, service):
            if service.canary_percent == 25:
                abort_rollout(**places, reason="at the worst moment")
            bench.world.target.apply(service)

    places = dict(bench.places)
    bench.target = AbortedWhileApplying()
    bench.start(2)

    record = bench.run()

    assert record.outcome == "aborted: at the worst moment"
    assert [service.canary_percent for service in bench.world.target.applied] == [0, 5, 0, 25, 0]
    assert bench.world.target.service.canary is None


def test_two_drivers_of_one_rollout_agree(bench):
    bench.start(2)
    outcomes = []

    def second_driver() -> None:
        if bench.world.slept == 3:
            outcomes.append(bench.run().state)

    bench.world.after_traffic = second_driver

    assert (bench.run().state, outcomes) == ("promoted", ["promoted"])
    moves = [event.version for event in bench.registry.events(NAME) if event.kind == "alias-moved"]
    assert moves == [1, 2]
