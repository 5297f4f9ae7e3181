"""What the cluster needs is imported late, and its absence is told in one line."""

import subprocess
import sys

import pytest

from tidegate.deployment.kserve.documents import standard_document
from tidegate.deployment.kserve.sdk import kserve_models, kubernetes_models
from tidegate.errors import DeploymentError


def test_importing_the_documents_imports_neither_sdk_nor_client():
    code = (
        "import sys\n"
        "from tidegate.deployment.kserve import companions, documents, rules\n"
        "heavy = {'kserve', 'kubernetes', 'kserve.models'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("module", "load", "what"),
    [
        pytest.param("kserve", kserve_models, "KServe's SDK", id="sdk"),
        pytest.param("kubernetes", kubernetes_models, "the Kubernetes client", id="client"),
    ],
)
def test_what_is_not_installed_is_named_with_the_extra_that_installs_it(monkeypatch, module, load, what):
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(DeploymentError, match=rf"{what} is not installed; run: pip install 'tidegate\[cluster\]'"):
        load()


def test_without_the_sdk_a_document_is_no_traceback(monkeypatch, cluster, service):
    monkeypatch.setitem(sys.modules, "kserve", None)

    with pytest.raises(DeploymentError, match=r"tidegate\[cluster\]"):
        standard_document(service, cluster())
