"""What was applied is known again: another's edit is told, additions are kept, and writing changes only what is meant."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kubernetes_api.webhook import set_defaults
from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.kserve.applied import differs, edits, merged, predictors, sealed, template_of
from tidegate.deployment.kserve.documents import knative_document, standard_document
from tidegate.project.cluster import ClusterSection

V1, V2 = (Revision(f"v{number}", f"s3://bucket/models/{number}/", {"TIDEGATE_CLOCK": "wall"}) for number in (1, 2))
SPLIT = Service("flights", "default", V1, V2, 5)
STANDARD = ClusterSection(store="s3://bucket/tidegate")
KNATIVE = ClusterSection(store="s3://bucket/tidegate", mode="Knative")


def document(service: Service = SPLIT, cluster: ClusterSection = STANDARD) -> dict[str, Any]:
    return sealed(standard_document(service, cluster), "Standard")


def live(service: Service = SPLIT) -> dict[str, Any]:
    """What the API server holds after KServe's webhook has seen it."""
    found = copy.deepcopy(document(service))
    set_defaults(None, found)
    return found


def at(found: dict[str, Any], *path: Any) -> Any:
    for part in path:
        found = found[part]
    return found


def test_defaults_of_the_webhook_are_no_edit():
    assert edits(live()) == []
    assert not differs(merged(live(), document()), live())


def test_quantities_may_be_written_otherwise():
    large = ClusterSection.model_validate({"store": "s3://bucket/p", "serving": {"cpu": "1000m", "memory": "1024Mi"}})
    found = copy.deepcopy(document(cluster=large))
    set_defaults(None, found)

    assert at(found, "spec", "predictor", "model", "resources", "limits") == {"cpu": "1", "memory": "1Gi"}
    assert edits(found) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            lambda found: found["spec"]["predictor"]["model"]["resources"]["limits"].update(cpu="4"),
            'spec.predictor.model.resources.limits.cpu is "4", but Tidegate set "1"',
            id="resources",
        ),
        pytest.param(
            lambda found: found["spec"]["canary"][0].update(trafficPercent=50),
            "spec.canary.0.trafficPercent is 50, but Tidegate set 5",
            id="percent",
        ),
        pytest.param(
            lambda found: found["spec"]["canary"][0].update(trafficPercent=0),
            "spec.canary.0.trafficPercent is 0, but Tidegate set 5",
            id="percent-to-zero",
        ),
        pytest.param(lambda found: found["spec"].pop("canary"), "spec.canary is gone, but Tidegate set [", id="canary-gone"),
        pytest.param(
            lambda found: found["spec"]["predictor"].update(canaryTrafficPercent=10),
            "spec.predictor.canaryTrafficPercent is 10, which Tidegate did not set",
            id="other-dialect",
        ),
        pytest.param(
            lambda found: found["spec"]["predictor"]["model"]["env"][0].update(value="replay"),
            "spec.predictor.model.env.0.value is another value, but Tidegate set another value",
            id="environment-without-its-value",
        ),
        pytest.param(
            lambda found: found["metadata"]["annotations"].pop("tidegate.dev/applied"),
            "annotation tidegate.dev/applied is gone or damaged",
            id="annotation-gone",
        ),
        pytest.param(
            lambda found: found["metadata"]["annotations"].update({"serving.kserve.io/deploymentMode": "Knative"}),
            "metadata.annotations.serving.kserve.io/deploymentMode is",
            id="mode",
        ),
    ],
)
def test_an_edit_is_told_with_field_and_values(change, told):
    found = live()
    change(found)

    assert told in "; ".join(edits(found))


def test_a_canary_of_somebody_else_is_told():
    found = live(SPLIT.rolled_back())
    found["spec"]["canary"] = [{"trafficPercent": 5, "predictor": {"name": "mine"}}]

    (sentence,) = edits(found)
    assert sentence.startswith('spec.canary is [{"predictor":{"name":"mine"},"trafficPercent":5}], which Tidegate did not set')


def test_what_others_added_is_kept_through_a_promotion():
    found = live()
    found["metadata"]["labels"]["team"] = "delays"
    found["metadata"]["annotations"]["note"] = "theirs"
    found["spec"]["predictor"]["nodeSelector"] = {"zone": "b"}
    assert edits(found) == []

    after = merged(found, document(SPLIT.promoted()))

    assert after["metadata"]["labels"]["team"] == "delays"
    assert after["metadata"]["annotations"]["note"] == "theirs"
    assert after["spec"]["predictor"]["nodeSelector"] == {"zone": "b"}
    assert after["spec"]["predictor"]["model"]["storageUri"] == V2.storage_uri
    assert "canary" not in after["spec"]
    assert edits(after) == []


def test_what_others_changed_is_kept_where_nothing_else_is_meant():
    found = live()
    found["spec"]["predictor"]["model"]["resources"]["limits"]["cpu"] = "4"

    after = merged(found, document(SPLIT.rolled_back()))

    assert after["spec"]["predictor"]["model"]["resources"]["limits"]["cpu"] == "4"
    assert "canary" not in after["spec"]


def test_a_field_that_is_not_meant_any_more_goes():
    found = sealed(knative_document(SPLIT, KNATIVE, latest=V2, percent=5), "Knative")
    set_defaults(None, found)

    after = merged(found, sealed(knative_document(SPLIT.promoted(), KNATIVE, latest=V2, percent=None), "Knative"))

    assert "canaryTrafficPercent" not in after["spec"]["predictor"]


def test_the_template_is_the_same_whichever_part_the_revision_plays():
    stable = template_of(predictors(document(SPLIT.promoted()))[0])
    canary = template_of(predictors(document())[1])
    knative = [
        template_of(sealed(knative_document(SPLIT, KNATIVE, latest=V2, percent=percent), "Knative")["spec"]["predictor"])
        for percent in (0, 5)
    ]

    assert stable == canary
    assert knative[0] == knative[1]


def test_the_template_is_another_for_other_pods():
    other = Service("flights", "default", Revision("v1", V1.storage_uri, {"TIDEGATE_CLOCK": "replay"}))

    assert template_of(predictors(document(other))[0]) != template_of(predictors(document())[0])


def test_no_annotation_that_changes_reaches_the_pods():
    for predictor in predictors(document()):
        assert predictor["annotations"]["tidegate.dev/applied"] == predictor["annotations"]["tidegate.dev/service"]
    assert predictors(document())[0]["annotations"] == predictors(document(SPLIT.with_canary(V2, 50)))[0]["annotations"]


@settings(max_examples=50, deadline=None)
@given(
    percents=st.lists(st.integers(0, 100), min_size=1, max_size=5),
    additions=st.dictionaries(st.sampled_from(["team", "cost", "note"]), st.text("abc", min_size=1, max_size=5)),
)
def test_whatever_is_applied_after_each_other_is_what_is_live_with_every_addition(percents, additions):
    found = live()
    found["metadata"]["labels"] |= additions
    for percent in percents:
        wanted = document(SPLIT.with_canary(V2, percent))
        found = merged(found, wanted)
        set_defaults(None, found)
        assert edits(found) == []
        assert not differs(merged(found, wanted), found)
        assert found["spec"]["canary"][0]["trafficPercent"] == percent
        assert additions.items() <= found["metadata"]["labels"].items()
