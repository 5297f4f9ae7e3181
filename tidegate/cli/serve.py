"""`tidegate serve`: serve a model package over the Open Inference Protocol."""

from typing import Annotated

import typer

from tidegate.serving.inference_log.log import LogLimits
from tidegate.serving.server import serve
from tidegate.serving.settings import ServeSettings

_D = ServeSettings(package="")


def command(
    package: Annotated[str, typer.Argument(help="A model package: its folder, file://…/ or s3://…/.")],
    name: Annotated[
        str | None, typer.Option(envvar="TIDEGATE_NAME", help="The model's name in paths; default: the package's.")
    ] = None,
    http_port: Annotated[int, typer.Option(envvar="TIDEGATE_HTTP_PORT", min=1, max=65535)] = _D.http_port,
    grpc_port: Annotated[
        int, typer.Option(envvar="TIDEGATE_GRPC_PORT", min=0, max=65535, help="0 turns gRPC off.")
    ] = _D.grpc_port,
    workers: Annotated[int, typer.Option(envvar="TIDEGATE_WORKERS", min=1, max=64, help="Processes that answer.")] = _D.workers,
    version: Annotated[str, typer.Option(envvar="TIDEGATE_VERSION", help="The version it is served as.")] = _D.version,
    revision: Annotated[
        str | None, typer.Option(envvar="TIDEGATE_REVISION", help="The revision it belongs to; default: v<version>.")
    ] = None,
    online_store: Annotated[
        str | None,
        typer.Option(
            envvar="TIDEGATE_ONLINE_STORE", help="Where features are looked up: sqlite:///PATH or redis://HOST:PORT/DB."
        ),
    ] = None,
    log_store: Annotated[
        str | None, typer.Option(envvar="TIDEGATE_LOG_STORE", help="Object store of the inference log; default: no log.")
    ] = None,
    clock: Annotated[str, typer.Option(envvar="TIDEGATE_CLOCK", help="Event time: wall, at:MOMENT or replay:PATH.")] = _D.clock,
    host: Annotated[str, typer.Option(envvar="TIDEGATE_HOST", help="Address to listen on.")] = _D.host,
    log_rotate_rows: Annotated[
        int, typer.Option(envvar="TIDEGATE_LOG_ROTATE_ROWS", min=1, help="Rows after which a log file is closed.")
    ] = _D.log_limits.rotate_rows,
    log_rotate_seconds: Annotated[
        float, typer.Option(envvar="TIDEGATE_LOG_ROTATE_SECONDS", min=0.01, help="Seconds after which it is closed.")
    ] = _D.log_limits.rotate_seconds,
    log_queue_rows: Annotated[
        int, typer.Option(envvar="TIDEGATE_LOG_QUEUE_ROWS", min=1, help="Rows that may wait; more are dropped and counted.")
    ] = _D.log_limits.queue_rows,
    max_rows: Annotated[int, typer.Option(envvar="TIDEGATE_MAX_ROWS", min=1, help="Rows in one request.")] = _D.max_rows,
    max_body_bytes: Annotated[
        int, typer.Option(envvar="TIDEGATE_MAX_BODY_BYTES", min=1024, help="Bytes in one request's body.")
    ] = _D.max_body_bytes,
    drain_seconds: Annotated[
        float, typer.Option(envvar="TIDEGATE_DRAIN_SECONDS", min=0, help="How long requests in flight may take at the end.")
    ] = _D.drain_seconds,
) -> None:
    """Serve a model package until SIGTERM: REST and /metrics on one port, gRPC on another."""
    settings = ServeSettings(
        package=package,
        name=name,
        version=version,
        revision=revision,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        workers=workers,
        online_store=online_store,
        log_store=log_store,
        log_limits=LogLimits(rotate_rows=log_rotate_rows, rotate_seconds=log_rotate_seconds, queue_rows=log_queue_rows),
        clock=clock,
        max_rows=max_rows,
        max_body_bytes=max_body_bytes,
        drain_seconds=drain_seconds,
    )
    serve(settings)
