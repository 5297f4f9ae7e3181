"""A stand-in for the model server: answers like one, and misbehaves as the file `mode` in its package directory says.

Modes: `ok`, `fail` (503 to every prediction), `hang`, `never-ready`, `exit` (an error line, status 1), `slow` (0.2 s each).
"""

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web

package = Path(sys.argv[1].removeprefix("file://"))
revision = os.environ["TIDEGATE_REVISION"]


def mode() -> str:
    file = package / "mode"
    return file.read_text().strip() if file.exists() else "ok"


async def ready(_: web.Request) -> web.Response:
    return web.Response(status=503 if mode() == "never-ready" else 200)


async def predict(request: web.Request) -> web.Response:
    await request.read()
    if mode() == "hang":
        await asyncio.sleep(3600)
    if mode() == "slow":
        await asyncio.sleep(0.2)
    return web.json_response({"revision": revision}, status=503 if mode() == "fail" else 200)


if mode() == "exit":
    sys.exit("error: the package is corrupt")
app = web.Application()
app.router.add_get("/v2/health/ready", ready)
app.router.add_post("/{path:.*}", predict)
web.run_app(app, host="127.0.0.1", port=int(os.environ["TIDEGATE_HTTP_PORT"]), print=None, shutdown_timeout=5)
