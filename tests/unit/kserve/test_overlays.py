"""Every kustomization under kserve/: the same documents by every kubectl, each valid by its schema, and each in the README."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
KSERVE = ROOT / "kserve"
FOLDERS = sorted(str(file.parent.relative_to(KSERVE)) for file in KSERVE.rglob("kustomization.yaml"))
CLUSTER_SCOPED = {"Namespace"}


@pytest.fixture(params=FOLDERS)
def folder(request) -> str:
    return request.param


def test_every_document_is_valid_by_its_schema(folder, rendered, check_manifest):
    documents = rendered(KSERVE / folder)

    assert documents
    for document in documents:
        check_manifest(document)


def test_every_document_says_where_it_belongs(folder, rendered):
    if folder.partition("/")[0] in ("runtimes", "monitoring"):
        pytest.skip("is applied to a namespace of the user's choice: kubectl apply --namespace")
    for document in rendered(KSERVE / folder):
        metadata = document["metadata"]
        labels = metadata.get("labels", {})

        assert "namespace" in metadata or document["kind"] in CLUSTER_SCOPED, metadata["name"]
        assert "tidegate" in (labels.get("app.kubernetes.io/part-of"), labels.get("app.kubernetes.io/managed-by"))


def test_no_two_documents_are_the_same_object(folder, rendered):
    names = [
        (d["apiVersion"], d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in rendered(KSERVE / folder)
    ]

    assert len(names) == len(set(names))


def test_every_file_of_a_kustomization_is_used(folder):
    text = (KSERVE / folder / "kustomization.yaml").read_text()
    files = {file.name for file in (KSERVE / folder).glob("*.yaml")} - {"kustomization.yaml"}

    assert files == set(re.findall(r"^\s+- ([-\w]+\.yaml)$", text, re.MULTILINE))


def test_the_readme_lists_every_folder_and_no_other():
    listed = re.findall(r"^\| `([-/\w]+)` \|", (KSERVE / "README.md").read_text(), re.MULTILINE)

    assert sorted(listed) == FOLDERS
