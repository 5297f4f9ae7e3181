"""A stand-in for the model server: answers like one, and misbehaves as the file `mode` in its package directory says.

Modes: `ok`, `fail` (503 to every prediction), `hang`, `slow` (0.2 s each), `never-ready`, `exit` (an error line, status 1),
`stubborn` (ignores SIGTERM; read at the start only).
"""

import asyncio
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from tidegate.serving.metrics.names import LATENCY, LATENCY_BOUNDS

package = Path(sys.argv[1].removeprefix("file://"))
answered = 0
revision = os.environ["TIDEGATE_REVISION"]


def mode() -> str:
    file = package / "mode"
    return file.read_text().strip() if file.exists() else "ok"


async def ready(_: web.Request) -> web.Response:
    return web.Response(status=503 if mode() == "never-ready" else 200)


async def metrics(_: web.Request) -> web.Response:
    bounds = (*LATENCY_BOUNDS, "+Inf")
    return web.Response(text="".join(f'{LATENCY}_bucket{{le="{bound}"}} {answered}\n' for bound in bounds))


async def predict(request: web.Request) -> web.Response:
    global answered
    await request.read()
    answered += 1
    if mode() == "hang":
        await asyncio.sleep(3600)
    if mode() == "slow":
        await asyncio.sleep(0.2)
    return web.json_response({"revision": revision}, status=503 if mode() == "fail" else 200)


if mode() == "exit":
    sys.exit("error: the package is corrupt")
handle_signals = mode() != "stubborn"
if not handle_signals:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
app = web.Application(client_max_size=2**24)
app.router.add_get("/v2/health/ready", ready)
app.router.add_get("/metrics", metrics)
app.router.add_post("/{path:.*}", predict)
port = int(os.environ["TIDEGATE_HTTP_PORT"])
web.run_app(app, host="127.0.0.1", port=port, print=None, shutdown_timeout=5, handle_signals=handle_signals)
