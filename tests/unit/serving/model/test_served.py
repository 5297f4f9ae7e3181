"""One request through a served model: answer, metrics, log."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.served_models import answer_of, answers, sent
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.metrics.names import BATCH_ROWS, FEATURE_MISSING, PREDICTIONS, UNUSUAL_VALUES
from tidegate.serving.metrics.text import render
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferRequest


def metric(served: Any, name: str, label: str) -> int:
    lines = render(served.memory).decode().splitlines()
    return int(next(line for line in lines if line.startswith(name) and label in line).split()[-1])


def answer(served: Any, tensors: dict[str, Any], outputs: tuple[str, ...] | None = None) -> dict[str, Any]:
    return answer_of(served.model, tensors, outputs).outputs


def test_an_answer_has_probability_and_label(served: Any, good_tensors: dict[str, Any]) -> None:
    outputs = answer(served, good_tensors)
    assert list(outputs) == ["probability", "label"]
    assert outputs["probability"].dtype == np.float32
    assert outputs["probability"].shape == (2,)
    expected = ["late" if probability >= 0.5 else "on-time" for probability in outputs["probability"]]
    assert outputs["label"].tolist() == expected


def test_the_threshold_itself_is_class_1(
    make_served: Callable[..., Any], tiny_manifest: Manifest, good_tensors: dict[str, Any]
) -> None:
    probability = float(answer(make_served(), good_tensors)["probability"][0])
    at = make_served(msgspec.structs.replace(tiny_manifest, threshold=probability))
    above = make_served(msgspec.structs.replace(tiny_manifest, threshold=np.nextafter(probability, 2)))
    assert answer(at, good_tensors)["label"][0] == "late"
    assert answer(above, good_tensors)["label"][0] == "on-time"


def test_features_are_looked_up_at_the_event_time(served: Any, good_tensors: dict[str, Any]) -> None:
    answer(served, good_tensors)
    [(keys, at)] = served.reader.asked
    assert keys == {"origin": ["EWR", "JFK"], "dest": ["SFO", "ORD"]}
    assert at.isoformat() == "2013-06-01T12:30:00+00:00"


def test_looked_up_features_give_the_answer_of_given_ones(served: Any, good_tensors: dict[str, Any]) -> None:
    looked_up = answer(served, good_tensors)
    given = good_tensors | {"weather__temp": np.full(2, 20, np.float32), "route__delay": np.full(2, 7, np.float32)}
    assert answer(served, given)["probability"].tolist() == looked_up["probability"].tolist()
    assert len(served.reader.asked) == 1


@pytest.mark.parametrize(
    ("wanted", "answered"),
    [
        pytest.param(("label",), ["label"], id="one"),
        pytest.param(("label", "probability"), ["label", "probability"], id="both, turned round"),
    ],
)
def test_outputs_are_selected(served: Any, good_tensors: dict[str, Any], wanted: tuple[str, ...], answered: list[str]) -> None:
    assert list(answer(served, good_tensors, wanted)) == answered


def test_an_unknown_output_is_a_400_and_not_logged(served: Any, good_tensors: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="output 'score' is none of this model's; it answers probability, label") as error:
        answer(served, good_tensors, ("score",))
    assert error.value.status == 400
    assert served.log.records == []


def test_an_answer_is_logged_with_everything_it_came_from(served: Any, good_tensors: dict[str, Any]) -> None:
    answer(served, good_tensors)
    [record] = served.log.records
    assert (record.request_id, record.rows, record.status, record.error) == ("f1", 2, 200, None)
    assert list(record.keys["dest"]) == ["SFO", "ORD"]
    assert record.inputs["weather__temp"].ravel().tolist() == [20, 20]
    assert set(record.times) == {"weather", "route"}
    assert list(record.outputs) == ["probability", "label"]
    assert record.latency_us > 0


def test_a_failed_lookup_is_a_503_and_logged(served: Any, good_tensors: dict[str, Any]) -> None:
    good_tensors["dest"][0] = "down"
    with pytest.raises(RequestError, match="could not be looked up") as error:
        answer(served, good_tensors)
    assert error.value.status == 503
    [record] = served.log.records
    assert record.status == 503
    assert "could not be looked up" in record.error
    assert record.outputs == {}


def test_a_graph_that_fails_is_a_500_and_logged(
    served: Any, good_tensors: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_tensors: Any) -> Any:
        raise RuntimeError("Non-zero status\ncode")

    monkeypatch.setattr(served.model, "_engine", type("Broken", (), {"run_feeds": staticmethod(fail)}))
    with pytest.raises(RequestError, match="the model failed on this input: Non-zero status code") as error:
        answer(served, good_tensors)
    assert error.value.status == 500
    assert served.log.records[0].status == 500


def test_what_happened_is_counted(served: Any, good_tensors: dict[str, Any]) -> None:
    good_tensors["dest"][0] = "absent"
    good_tensors["carrier"][1] = "XX"
    probabilities = answer(served, good_tensors)["probability"]
    assert metric(served, FEATURE_MISSING, 'view="weather"') == 1
    assert metric(served, UNUSUAL_VALUES, 'input="carrier"') == 1
    bins = [f"{int(value * 10) / 10:.1f}-" for value in probabilities]
    assert sum(metric(served, PREDICTIONS, f'bin="{low}') for low in set(bins)) == 2


@pytest.mark.parametrize(
    "waits", [pytest.param(False, id="a store that answers at once"), pytest.param(True, id="one that waits")]
)
def test_requests_of_one_turn_share_a_run_and_each_gets_its_own(
    make_served: Callable[..., Any], good_tensors: dict[str, Any], waits: bool
) -> None:
    served = make_served(waits=waits)
    rows = [{name: array[index : index + 1] for name, array in good_tensors.items()} for index in (0, 1)]
    alone = [answer_of(make_served().model, row).outputs["probability"].tolist() for row in rows]
    requests = [InferRequest(f"r{index}", sent(rows[index % 2])) for index in range(5)]
    outcomes = asyncio.run(answers(served.model, requests))
    assert [outcome.id for outcome in outcomes] == [f"r{index}" for index in range(5)]
    assert [outcome.outputs["probability"].tolist() for outcome in outcomes] == [alone[index % 2] for index in range(5)]
    assert sorted(record.request_id for record in served.log.records) == [f"r{index}" for index in range(5)]
    assert metric(served, BATCH_ROWS + "_count", "") < 5
    assert served.model.idle


def test_a_request_of_one_row_is_logged_as_it_was_sent(served: Any, good_tensors: dict[str, Any]) -> None:
    answer(served, {name: array[:1] for name, array in good_tensors.items()})
    [record] = served.log.records
    names = [spec.name for spec in served.model.manifest.signature.inputs]
    logged = dict(zip(names, record.row, strict=True))
    assert {name: logged[name] for name in ("carrier", "distance", "weather__temp")} == {
        "carrier": "UA",
        "distance": 1000.0,
        "weather__temp": 20.0,
    }


@pytest.mark.parametrize("error", [pytest.param(None, id="kept"), pytest.param(OSError("disk full"), id="not kept")])
def test_an_audit_log_decides_whether_there_is_an_answer(
    served: Any, good_tensors: dict[str, Any], error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served.log, "audits", True)
    monkeypatch.setattr(served.log, "keep", lambda record, done: done(error), raising=False)
    if error is None:
        assert len(answer(served, good_tensors)["probability"]) == 2
        return
    with pytest.raises(RequestError, match=r"record could not be kept: .*disk full.*; nothing is answered") as refusal:
        answer(served, good_tensors)
    assert refusal.value.status == 503
