"""The checks of the other manifest tests notice what they are there to notice."""

import pytest

ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tidegate-serving"}}
GRAPH = {
    "apiVersion": "serving.kserve.io/v1alpha1",
    "kind": "InferenceGraph",
    "metadata": {"name": "regions"},
    "spec": {"nodes": {"root": {"routerType": "Switch", "steps": [{"serviceName": "flights-late"}]}}},
}


@pytest.mark.parametrize("document", [pytest.param(ACCOUNT, id="core kind"), pytest.param(GRAPH, id="custom resource")])
def test_a_valid_document_passes(document, check_manifest):
    check_manifest(document)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        pytest.param(ACCOUNT | {"secret": []}, "secret", id="unknown field of a core kind"),
        pytest.param(ACCOUNT | {"secrets": {"name": "s"}}, "secrets", id="wrong type in a core kind"),
        pytest.param(ACCOUNT | {"kind": "ServiceAcount"}, "no schema", id="unknown core kind"),
        pytest.param(GRAPH | {"spec": GRAPH["spec"] | {"node": {}}}, "node", id="unknown field of a custom resource"),
        pytest.param(GRAPH | {"spec": {"nodes": {"root": {"steps": []}}}}, "routerType", id="missing field"),
        pytest.param(GRAPH | {"apiVersion": "serving.kserve.io/v1"}, "no schema", id="version that is not served"),
        pytest.param(ACCOUNT | {"metadata": {"name": "a", "label": {}}}, "label", id="unknown field of the metadata"),
        pytest.param(ACCOUNT | {"metadata": {"name": "a", "labels": {"a": 1}}}, "labels.a", id="label that is no string"),
        pytest.param(ACCOUNT | {"metadata": {"name": "a", "labels": {"a": "b c"}}}, "labels.a", id="label with a blank"),
    ],
)
def test_a_wrong_document_fails(document, complaint, check_manifest):
    with pytest.raises((AssertionError, pytest.fail.Exception), match=complaint):
        check_manifest(document)


def test_a_kustomization_that_kustomize_refuses_fails(tmp_path, rendered):
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")

    with pytest.raises(AssertionError, match=r"missing\.yaml"):
        rendered(tmp_path)
