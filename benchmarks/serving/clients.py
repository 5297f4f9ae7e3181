"""Puts load on a server from another core: wrk for REST, h2load for gRPC, and a client written in Python where wrk is missing.

wrk takes the least of its core of the three. It counts what was not 2xx and what was cut off, corrects its percentiles for the
time in which a stalled server is not asked (coordinated omission), and takes whole seconds. h2load gives every request's status
and time, and how many bytes of data came: an answer that is no answer is shorter. The results say which client it was.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving.processes import on_core
from benchmarks.serving.requests import Request

_PYTHON_CLIENT = Path(__file__).with_name("load.py")
_LUA = """
wrk.method = "POST"
local file = io.open("{body}", "rb"); wrk.body = file:read("*a"); file:close()
{headers}
done = function(summary, latency, requests)
  local e = summary.errors
  local seen = {{requests = summary.requests, microseconds = summary.duration, bad = e.status,
    lost = e.connect + e.read + e.write + e.timeout, p50 = latency:percentile(50), p95 = latency:percentile(95),
    p99 = latency:percentile(99)}}
  local parts = {{}}
  for name, value in pairs(seen) do parts[#parts + 1] = string.format('"%s": %.3f', name, value) end
  io.write("\\nSEEN {{" .. table.concat(parts, ", ") .. "}}\\n")
end
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a client saw of one turn.

    Attributes:
        client: Which one it was.
        requests: How many were answered.
        requests_per_second: That, by the second.
        p50_us: Median latency in microseconds.
        p95_us: 95 % were quicker.
        p99_us: 99 % were quicker.
        client_cpu: The share of its core that the client took; near 1 it may be the client that is measured.
    """

    client: str
    requests: int
    requests_per_second: float
    p50_us: float
    p95_us: float
    p99_us: float
    client_cpu: float

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


def can_load(request: Request) -> bool:
    """Return whether there is a client for it; for gRPC there is only h2load."""
    return not request.is_grpc or shutil.which("h2load") is not None


def load(request: Request, port: int, *, connections: int, seconds: int, core: int, folder: Path, answer_bytes: int) -> Seen:
    """Send a request over and over, one at a time on each connection.

    Args:
        request: What to send.
        port: Where to.
        connections: How many are in flight.
        seconds: How long.
        core: Where the client runs.
        folder: For its files.
        answer_bytes: How long the answer's body is.

    Raises:
        SystemExit: A request failed.
    """
    (folder / "body").write_bytes(request.body)
    if request.is_grpc:
        return _h2load(request, port, connections, seconds, core, folder, answer_bytes)
    if shutil.which("wrk"):
        return _wrk(request, port, connections, seconds, core, folder)
    return _python(request, port, connections, seconds, core, folder)


def _wrk(request: Request, port: int, connections: int, seconds: int, core: int, folder: Path) -> Seen:
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers.items())
    (folder / "request.lua").write_text(_LUA.format(body=folder / "body", headers=headers))
    url = f"http://127.0.0.1:{port}{request.path}"
    script = str(folder / "request.lua")
    said, cpu = _run(["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", script, url], core)
    seen = json.loads(said.rpartition("SEEN ")[2])
    if seen["bad"] or seen["lost"] or not seen["requests"]:
        raise SystemExit(f"not every request was answered: {seen}")
    rate = seen["requests"] / seen["microseconds"] * 1e6
    return Seen("wrk", int(seen["requests"]), rate, seen["p50"], seen["p95"], seen["p99"], cpu)


def _h2load(request: Request, port: int, connections: int, seconds: int, core: int, folder: Path, answer_bytes: int) -> Seen:
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)
    headers = [part for name, value in request.headers.items() for part in ("-H", f"{name}: {value}")]
    files = ["-d", str(folder / "body"), f"--log-file={log}"]
    timing = ["-D", f"{seconds}s", "--warm-up-time", "100ms"]
    url = f"http://127.0.0.1:{port}{request.path}"
    said, cpu = _run(["h2load", "-t1", f"-c{connections}", "-m1", *timing, *files, *headers, url], core)
    logged = np.loadtxt(log, dtype=np.int64, delimiter="\t", usecols=(1, 2), ndmin=2)
    bad = int(np.count_nonzero(logged[:, 0] != 200))
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
    data = re.search(r"\((\d+)\) data", said)
    if failed is None or data is None or bad or any(map(int, failed.groups())) or not len(logged):
        raise SystemExit(f"not every request was answered: {said}")
    if int(data[1]) < (len(logged) - connections) * answer_bytes:
        raise SystemExit(f"{data[1]} bytes of data came in {len(logged)} answers of {answer_bytes}: some were errors")
    p50, p95, p99 = np.percentile(logged[:, 1], (50, 95, 99))
    return Seen("h2load", len(logged), len(logged) / seconds, float(p50), float(p95), float(p99), cpu)


def _python(request: Request, port: int, connections: int, seconds: int, core: int, folder: Path) -> Seen:
    headers = "|".join(f"{name}: {value}" for name, value in request.headers.items())
    arguments = [str(port), request.path, str(folder / "body"), headers, str(connections), str(seconds)]
    said, cpu = _run([sys.executable, str(_PYTHON_CLIENT), *arguments], core)
    seen = json.loads(said)
    if set(seen["statuses"]) != {"200"}:
        raise SystemExit(f"not every request was answered: {seen['statuses']}")
    percentiles = (seen["p50_us"], seen["p95_us"], seen["p99_us"])
    return Seen("python", seen["statuses"]["200"], seen["requests_per_second"], *percentiles, cpu)


def _run(command: Sequence[str], core: int) -> tuple[str, float]:
    """Return what a client wrote, and the share of its core that it took."""
    begun = time.perf_counter()
    with on_core(core):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        said, complained = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {complained.strip() or said.strip()}")
    return said, (used.ru_utime + used.ru_stime) / (time.perf_counter() - begun)
