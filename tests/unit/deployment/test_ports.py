import socket

import pytest

from tidegate.deployment.local.ports import Ports, is_free
from tidegate.errors import DeploymentError


@pytest.fixture
def occupied():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_ports_are_kept_over_restarts(tmp_path):
    ports = Ports(tmp_path / "ports.json")
    chosen = [ports.listener("flights"), ports.server("flights", "v1-0a", "http"), ports.admin()]

    again = Ports(tmp_path / "ports.json")

    assert [again.listener("flights"), again.server("flights", "v1-0a", "http"), again.admin()] == chosen
    assert len(set(chosen)) == 3
    assert all(port < 32768 for port in chosen)


def test_a_forgotten_port_may_be_chosen_again(tmp_path):
    ports = Ports(tmp_path / "ports.json")
    port = ports.server("flights", "v1-0a", "http")
    ports.forget("server/flights/")

    assert ports.server("flights", "v1-0a", "http") == port


def test_a_port_taken_meanwhile_is_chosen_anew(tmp_path, occupied):
    (tmp_path / "ports.json").write_text(f'{{"listener/flights": {occupied}}}')
    ports = Ports(tmp_path / "ports.json")

    ports.forget_taken()

    assert ports.listener("flights") != occupied
    assert not is_free(occupied)


def test_no_free_port_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tidegate.deployment.local.ports.is_free", lambda _: False)

    with pytest.raises(DeploymentError, match="no free port between 18080 and 19999 for listener/flights"):
        Ports(tmp_path / "ports.json").listener("flights")
