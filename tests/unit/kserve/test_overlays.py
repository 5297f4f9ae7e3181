"""Every kustomization under kserve/: the same documents by every kubectl, each valid by its schema."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = sorted(file.parent for file in (ROOT / "kserve").rglob("kustomization.yaml"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT / "kserve")))
def test_every_document_is_valid_by_its_schema(folder, rendered, check_manifest):
    for document in rendered(folder):
        check_manifest(document)
