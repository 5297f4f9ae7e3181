import pytest

from tidegate.deployment.local.envoy_config import Backend


@pytest.fixture
def backend():
    def make(revision, *, service="flights", port=20000):
        return Backend(service, revision, f"{revision}-0a", http_port=port, grpc_port=port + 1)

    return make
