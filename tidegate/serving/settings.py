"""How one model server is to run: everything that `tidegate serve` can be told."""

from dataclasses import dataclass, field

from tidegate.serving.inference_log.log import LogLimits


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Settings of a model server.

    Attributes:
        package: A package's directory, `file://…/` or `s3://…/`.
        name: The model's name in request paths; None means the package's own.
        version: The version it is served as.
        revision: The InferenceService revision it belongs to; None means `v<version>`.
        host: Address to listen on.
        http_port: Port of REST and metrics.
        grpc_port: Port of gRPC; 0 turns gRPC off.
        workers: Number of processes that answer.
        online_store: Address of the online feature store; needed by a package with looked-up features.
        log_store: Object store that the inference log is written to; None turns the log off.
        log_limits: When log files are closed, and how many rows may wait.
        clock: Where event time is read: `wall`, `at:MOMENT` or `replay:PATH`.
        max_rows: Rows allowed in one request.
        max_body_bytes: Bytes allowed in one request's body.
        drain_seconds: How long requests in flight may take to finish once the server is asked to stop.
    """

    package: str
    name: str | None = None
    version: str = "1"
    revision: str | None = None
    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int = 8081
    workers: int = 1
    online_store: str | None = None
    log_store: str | None = None
    log_limits: LogLimits = field(default_factory=LogLimits)
    clock: str = "wall"
    max_rows: int = 1024
    max_body_bytes: int = 4 * 1024 * 1024
    drain_seconds: float = 10.0
