"""Ports of the loopback address, chosen once and kept."""

import socket
import zlib
from pathlib import Path

from tidegate.deployment.local.state import read_json, write_json
from tidegate.errors import DeploymentError

# Below the kernel's range for outgoing connections (from 32768), which could take a port while its server restarts.
_LISTENERS = range(18080, 20000)
_SERVERS = range(20000, 32000)


class Ports:
    """The ports of one state directory, remembered in `file`."""

    def __init__(self, file: Path) -> None:
        """Read the ports chosen earlier."""
        self._file = file
        self._kept: dict[str, int] = read_json(file) or {}

    def listener(self, service: str) -> int:
        """Return the port on which clients reach `service`."""
        return self._choose(f"listener/{service}", _LISTENERS, _LISTENERS.start)

    def server(self, service: str, instance: str, protocol: str) -> int:
        """Return the port on which the model server of `instance` answers `protocol`."""
        spread = zlib.crc32(f"{self._file}/{service}/{instance}".encode()) % len(_SERVERS)
        return self._choose(f"server/{service}/{instance}/{protocol}", _SERVERS, _SERVERS.start + spread)

    def admin(self) -> int:
        """Return the port of Envoy's admin interface."""
        return self._choose("admin", _SERVERS, _SERVERS.start + zlib.crc32(str(self._file).encode()) % len(_SERVERS))

    def forget(self, prefix: str) -> None:
        """Forget the ports whose name starts with `prefix`, such as `server/flights-late/`."""
        self._kept = {name: port for name, port in self._kept.items() if not name.startswith(prefix)}
        write_json(self._file, dict(self._kept))

    def forget_taken(self) -> None:
        """Forget the ports that another process has taken meanwhile."""
        self._kept = {name: port for name, port in self._kept.items() if is_free(port)}

    def _choose(self, name: str, within: range, first: int) -> int:
        if name not in self._kept:
            taken = set(self._kept.values())
            candidates = (*range(first, within.stop), *range(within.start, first))
            free = next((port for port in candidates if port not in taken and is_free(port)), None)
            if free is None:
                raise DeploymentError(f"no free port between {within.start} and {within.stop - 1} for {name}")
            self._kept[name] = free
            write_json(self._file, dict(self._kept))
        return self._kept[name]


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
