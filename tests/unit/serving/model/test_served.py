"""One request through a served model: answer, metrics, log."""

import asyncio
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np
import pytest

from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.metrics.names import FEATURE_MISSING, PREDICTIONS, UNUSUAL_VALUES
from tidegate.serving.metrics.text import render
from tidegate.serving.protocol.errors import RequestError
from tidegate.serving.protocol.request import InferRequest


def metric(served: Any, name: str, label: str) -> int:
    lines = render(served.memory).decode().splitlines()
    return int(next(line for line in lines if line.startswith(name) and label in line).split()[-1])


def answer(served: Any, tensors: dict[str, Any], outputs: tuple[str, ...] | None = None) -> dict[str, Any]:
    result: dict[str, Any] = asyncio.run(served.model.answer(InferRequest("f1", tensors, outputs), perf_counter_ns())).outputs
    return result


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
    assert record.keys["dest"].tolist() == ["SFO", "ORD"]
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

    monkeypatch.setattr(served.model, "_engine", type("Broken", (), {"run": staticmethod(fail)}))
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
