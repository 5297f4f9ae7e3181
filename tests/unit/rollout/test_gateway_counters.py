"""Which of a gateway's series count for which revision, and as what."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.rollout.gateway_counters import Counted, gateway
from tidegate.rollout.prometheus_api import literal, selector

BACKENDS = ("late-v1-predictor", "late-v2-predictor")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param({"response_code": "200"}, Counted(7, 0), id="answered"),
        pytest.param({"response_code": "404"}, Counted(7, 0), id="the client's fault"),
        pytest.param({"response_code": "500"}, Counted(7, 7), id="failed"),
        pytest.param({"response_code": "503", "response_flags": "UH"}, Counted(7, 7), id="no healthy pod"),
        pytest.param({"response_code": "0", "response_flags": "DC"}, Counted(7, 7), id="no answer"),
        pytest.param({"response_code": "200", "grpc_response_status": "0"}, Counted(7, 0), id="grpc answered"),
        pytest.param({"response_code": "200", "grpc_response_status": "3"}, Counted(7, 0), id="grpc invalid argument"),
        pytest.param({"response_code": "200", "grpc_response_status": "14"}, Counted(7, 7), id="grpc unavailable"),
        pytest.param({}, Counted(7, 0), id="no code"),
    ],
)
def test_istio_counts(labels, expected):
    assert gateway("istio").count(labels, 7) == expected


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param({"__name__": "envoy_cluster_upstream_rq_xx", "envoy_response_code_class": "2"}, Counted(7, 0), id="2xx"),
        pytest.param({"__name__": "envoy_cluster_upstream_rq_xx", "envoy_response_code_class": "5"}, Counted(7, 7), id="5xx"),
        pytest.param({"__name__": "envoy_cluster_upstream_rq_retry_success"}, Counted(0, 7), id="mended by a retry"),
        pytest.param({"__name__": "envoy_cluster_upstream_rq_total"}, Counted(0, 0), id="attempts"),
    ],
)
def test_envoy_counts(labels, expected):
    assert gateway("envoy").count(labels, 7) == expected


@pytest.mark.parametrize(
    ("cluster", "backend"),
    [
        pytest.param("models/late-v2-predictor", BACKENDS[1], id="Kourier"),
        pytest.param("models_late-v2-predictor_80", BACKENDS[1], id="Contour"),
        pytest.param("service/models/late-v1-predictor/80", BACKENDS[0], id="Envoy Gateway"),
        pytest.param("service/models/late-v1-predictor/8081/http2", BACKENDS[0], id="Envoy Gateway with a protocol"),
        pytest.param("other/late-v2-predictor", None, id="another namespace"),
        pytest.param("models/late-v2-predictor-2", None, id="a longer name"),
        pytest.param("models/x-late-v2-predictor", None, id="a name that ends alike"),
        pytest.param("httproute/models/late/rule/0", None, id="Envoy Gateway without mergeBackends"),
        pytest.param("models", None, id="no service"),
        pytest.param("", None, id="empty"),
    ],
)
def test_envoy_clusters(cluster, backend):
    envoy = gateway("envoy")
    pattern = re.search(r'envoy_cluster_name=~"(.*)"', envoy.of(BACKENDS, "models")).group(1)

    assert (re.fullmatch(pattern, cluster) is not None) == (backend is not None)
    assert envoy.backend({"envoy_cluster_name": cluster}, BACKENDS, "models") == backend


def test_istio_selects_only_what_it_counts():
    chosen = gateway("istio").of(BACKENDS, "models")

    assert chosen == (
        'istio_requests_total{reporter="source",destination_service_namespace="models",'
        'destination_service_name=~"late-v1-predictor|late-v2-predictor"}'
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('x"} or vector(1) #', id="quote"),
        pytest.param("x\\", id="backslash at the end"),
        pytest.param('x\\" or', id="escaped quote"),
        pytest.param("x\ny", id="newline"),
        pytest.param(".*", id="regular expression"),
        pytest.param("a|b", id="alternatives"),
    ],
)
def test_text_stays_text_in_a_selector(text):
    equal = selector("m", label=text)
    among = selector("m", label=(text, "other"))

    assert unquoted(equal.removeprefix("m{label=").removesuffix("}")) == text
    pattern = unquoted(among.removeprefix("m{label=~").removesuffix("}"))
    assert re.fullmatch(pattern, text)
    assert not re.fullmatch(pattern, f"{text}x")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), st.text(min_size=1))
def test_literal_matches_its_text_alone(text, other):
    assert re.fullmatch(literal(text), text)
    assert (re.fullmatch(literal(text), other) is not None) == (text == other)


def unquoted(string):
    """Read a PromQL string in double quotes: Go's escapes, and no quote or newline of its own."""
    assert re.fullmatch(r'"([^"\\\n]|\\["\\nr])*"', string), string
    names = {"n": "\n", "r": "\r", '"': '"', "\\": "\\"}
    return re.sub(r"\\(.)", lambda escape: names[escape.group(1)], string[1:-1])
