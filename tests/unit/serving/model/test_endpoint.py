"""An endpoint says what answers, whether requests are wanted, and tells whoever watches it."""

from typing import Any

from tidegate.serving.model.endpoint import Endpoint

FIRST: Any = object()
SECOND: Any = object()


def test_an_endpoint_is_ready_while_it_has_a_model_and_does_not_drain() -> None:
    endpoint = Endpoint("flights")
    assert (endpoint.model, endpoint.ready) == (None, False)
    assert endpoint.swap(FIRST) is None
    assert (endpoint.model, endpoint.ready) == (FIRST, True)
    assert endpoint.swap(None) is FIRST
    assert (endpoint.model, endpoint.ready) == (None, False)


def test_a_draining_endpoint_keeps_its_model_and_is_never_ready_again() -> None:
    endpoint = Endpoint("flights")
    endpoint.swap(FIRST)
    endpoint.drain()
    assert (endpoint.model, endpoint.ready) == (FIRST, False)
    endpoint.swap(SECOND)
    assert not endpoint.ready


def test_watchers_hear_of_every_change_until_they_leave() -> None:
    endpoint = Endpoint("flights")
    seen: list[bool] = []
    leave = endpoint.watch(lambda: seen.append(endpoint.ready))
    endpoint.swap(FIRST)
    endpoint.drain()
    leave()
    endpoint.swap(None)
    assert seen == [True, False]


def test_a_request_without_a_model_is_told_how_to_load_one_only_where_that_is_possible() -> None:
    endpoint = Endpoint("flights")
    refusal = endpoint.refusal()
    assert (refusal.status, str(refusal)) == (503, "model 'flights' is not loaded yet; try again later")
    repository: Any = object()
    endpoint.repository = repository
    assert "POST /v2/repository/models/flights/load" in str(endpoint.refusal())
