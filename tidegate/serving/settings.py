"""How one model server is to run: every setting of `tidegate serve`, said once.

A field's annotation holds what is known about it beside its type and default: what it means, its bounds, and its place in the
help. The command line, the environment variables and the table of docs/serving.md are made from it.
"""

from collections.abc import Iterator
from dataclasses import Field, dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin

from tidegate.errors import ServingError

Group = Literal[
    "What is served", "Where", "Features and time", "Limits", "Time limits", "Batching", "Inference log", "Trust", "Observation"
]


@dataclass(frozen=True, slots=True)
class About:
    """What is to be known about a setting.

    Attributes:
        group: What it belongs to.
        help: What it means, in one line.
        at_least: The least value that is taken, inclusive.
        at_most: The greatest.
    """

    group: Group
    help: str
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Settings of a model server; see each field's annotation.

    Raises:
        ServingError: A value is out of its bounds.
    """

    package: Annotated[str, About("What is served", "A model package: its folder, file://…/ or s3://…/.")]
    name: Annotated[str | None, About("What is served", "The model's name in paths; default: the package's.")] = None
    version: Annotated[str, About("What is served", "The version it is served as.")] = "1"
    revision: Annotated[str | None, About("What is served", "The revision it belongs to; default: v<version>.")] = None
    repository: Annotated[
        str | None,
        About("What is served", "Object store of a model registry; lets callers load another version. Default: off."),
    ] = None

    host: Annotated[str, About("Where", "Address to listen on.")] = "127.0.0.1"
    http_port: Annotated[int, About("Where", "Port of REST and /metrics.", 1, 65535)] = 8080
    grpc_port: Annotated[int, About("Where", "Port of gRPC; 0 turns gRPC off.", 0, 65535)] = 8081
    workers: Annotated[int, About("Where", "Processes that answer; each batches for itself.", 1, 64)] = 1

    online_store: Annotated[
        str | None,
        About("Features and time", "Where features are looked up: sqlite:///PATH or redis://HOST:PORT/DB."),
    ] = None
    clock: Annotated[str, About("Features and time", "Event time: wall, at:MOMENT or replay:PATH.")] = "wall"

    max_rows: Annotated[int, About("Limits", "Rows in one request.", 1)] = 1024
    max_body_bytes: Annotated[int, About("Limits", "Bytes in one request's body, decompressed.", 1024)] = 4 * 1024 * 1024
    gpu_memory_bytes: Annotated[
        int, About("Limits", "Most memory of a GPU that the graph may take for its tensors; 0 is all there is.", 0)
    ] = 0
    max_connections: Annotated[int, About("Limits", "Open connections of one worker and port.", 1, 1_000_000)] = 1024

    request_seconds: Annotated[
        float,
        About(
            "Time limits",
            "A request that has waited longer is refused, not computed; callers may ask for less.",
            0.001,
            86_400,
        ),
    ] = 30.0
    read_seconds: Annotated[float, About("Time limits", "Time a caller has to send one whole request.", 0.1, 3600)] = 10.0
    idle_seconds: Annotated[
        float,
        About("Time limits", "An idle connection is closed after this; give more than the proxy in front.", 1, 86_400),
    ] = 75.0
    drain_seconds: Annotated[float, About("Time limits", "How long requests in flight may take at the end.", 0, 3600)] = 10.0
    drain_delay_seconds: Annotated[
        float, About("Time limits", "After SIGTERM, time to go on serving, unready, until proxies have noticed.", 0, 600)
    ] = 0.0

    batch_rows: Annotated[
        int, About("Batching", "Most rows that requests are joined to for one run of the graph; 1 turns it off.", 1, 65_536)
    ] = 256
    batch_delay_ms: Annotated[
        float,
        About("Batching", "Longest wait for more rows under concurrent traffic; a lone request never waits.", 0, 1000),
    ] = 0.0
    queue_rows: Annotated[
        int, About("Batching", "Rows that may wait for the graph; a request beyond is refused with 429.", 1)
    ] = 16_384

    log_store: Annotated[str | None, About("Inference log", "Object store of the inference log; default: no log.")] = None
    log_mode: Annotated[
        Literal["async", "audit"],
        About("Inference log", "async: never delays a request; audit: answers only what is recorded durably."),
    ] = "async"
    log_sample: Annotated[float, About("Inference log", "Share of requests that are logged, by their id.", 0.0001, 1)] = 1.0
    log_redact: Annotated[
        tuple[str, ...],
        About("Inference log", "Columns to leave empty, or to hash as NAME:hash; several are parted by commas."),
    ] = ()
    log_rotate_rows: Annotated[int, About("Inference log", "Rows after which a log file is closed.", 1)] = 5000
    log_rotate_seconds: Annotated[float, About("Inference log", "Seconds after which it is closed.", 0.01, 86_400)] = 5.0
    log_queue_rows: Annotated[
        int, About("Inference log", "Rows that may wait to be written; more are dropped and counted.", 1)
    ] = 50_000

    verify_key: Annotated[
        str | None, About("Trust", "Public key (PEM file); a package that its owner did not sign is refused. Default: unasked.")
    ] = None
    allow_cpu_fallback: Annotated[
        bool, About("Trust", "Serve on the CPU, slower, when the package's accelerator is not there, instead of not at all.")
    ] = False

    access_log: Annotated[
        Literal["off", "errors", "all"], About("Observation", "Which requests are written to stderr, one JSON line each.")
    ] = "off"
    traces: Annotated[
        str,
        About("Observation", "OpenTelemetry spans: off, parent (as the caller decided), or a share such as 0.01."),
    ] = "off"

    def __post_init__(self) -> None:
        for setting in settings():
            setting.check(getattr(self, setting.name))
        if self.traces not in ("off", "parent") and not _is_share(self.traces):
            raise ServingError(f"traces: {self.traces!r}: is neither off, nor parent, nor a share over 0 and up to 1")


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of `ServeSettings`, as the command line, the environment and the documents show it.

    Attributes:
        name: Of the field.
        kind: Its type.
        default: None also where there is no default.
        about: What is to be known about it.
    """

    name: str
    kind: Any
    default: Any
    about: About

    @property
    def option(self) -> str:
        """Its option of `tidegate serve`."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"TIDEGATE_{self.name.upper()}"

    @staticmethod
    def spell(value: Any) -> str:
        """Return a value as its environment variable holds it."""
        return ",".join(value) if isinstance(value, tuple) else str(value)

    def check(self, value: Any) -> None:
        """Raise ServingError, naming the setting and its bounds, unless the value lies within them."""
        if get_origin(self.kind) is Literal and value not in get_args(self.kind):
            raise ServingError(f"{self.name}: {value!r}: must be one of {', '.join(get_args(self.kind))}")
        least, most = self.about.at_least, self.about.at_most
        if least is not None and not value >= least:
            raise ServingError(f"{self.name}: {value!r}: must be at least {least:g}")
        if most is not None and not value <= most:
            raise ServingError(f"{self.name}: {value!r}: must be at most {most:g}")


def settings() -> Iterator[Setting]:
    """Yield every setting, the package first."""
    for field in fields(ServeSettings):
        kind, about = get_args(field.type)
        yield Setting(field.name, kind, _default(field), about)


def _default(field: Field[Any]) -> Any:
    return None if field.name == "package" else field.default


def _is_share(text: str) -> bool:
    try:
        return 0 < float(text) <= 1
    except ValueError:
        return False
