"""Writes a model package as a repository of NVIDIA's Triton: `<name>/1/model.onnx` and its `<name>/config.pbtxt`.

    write_triton_repository(Path("out/package"), Path("out/triton"))      # then: aws s3 sync out/triton s3://bucket/triton

Triton does less than Tidegate's own model server: it looks up no features, checks no ranges, writes no inference log, and
does not take `null` for a missing value (send NaN, or an empty string). What a package needs features for must get them from
a transformer in front.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.errors import PackageError
from tidegate.packaging.manifest import MODEL_NAME, BenchmarkRow, Datatype, Manifest, TensorSpec
from tidegate.packaging.package import package_digest, verify_package

CONFIG_NAME = "config.pbtxt"
DIGEST_PARAMETER = "tidegate_package"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_TYPES: dict[Datatype, str] = {
    "BOOL": "TYPE_BOOL",
    "INT8": "TYPE_INT8",
    "INT16": "TYPE_INT16",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "UINT8": "TYPE_UINT8",
    "FP16": "TYPE_FP16",
    "FP32": "TYPE_FP32",
    "FP64": "TYPE_FP64",
    "BYTES": "TYPE_STRING",
}
_GRAPH_TYPES: dict[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# Of Triton's ONNX Runtime backend: its README, "Model Config Options" (triton-inference-server/onnxruntime_backend at 013d274).
_LEVELS = {"basic": -1, "extended": 1, "disabled": 2}
_SCRATCH = "/tmp/tensorrt"  # noqa: S108 - in the pod of the runtime tidegate-triton, an emptyDir


def write_triton_repository(package: Path, out: Path, *, features_supplied: bool = False, max_rows: int = 1024) -> Path:
    """Write the package as a Triton model repository, whole or not at all.

    Args:
        package: The model package; every file is checked against its digest first.
        out: The repository; must be free, empty, or an earlier one of the same model, which is replaced.
        features_supplied: A transformer in front of Triton looks up the features that the package needs.
        max_rows: Rows in one request; Triton refuses more.

    Returns:
        `out`, to be the storageUri of an InferenceService that asks for the runtime `tidegate-triton`.

    Raises:
        PackageError: The package is damaged, needs features that nobody supplies, has a name that cannot be a folder's, its
            graph is not of the signature's types, or `out` cannot be written or holds something else.
    """
    manifest = verify_package(package)
    if not _NAME.fullmatch(manifest.name):
        raise PackageError(f"package {package}: name {manifest.name!r} cannot be a folder's; package again under another name")
    if max_rows < 1:
        raise PackageError(f"max_rows {max_rows} must be at least 1")
    _check_features(manifest, supplied=features_supplied)
    _check_types(package, manifest)
    _refuse_to_overwrite(out, manifest.name)
    try:
        with _fresh_folder_beside(out) as fresh:
            model = fresh / manifest.name
            (model / "1").mkdir(parents=True)
            shutil.copyfile(package / MODEL_NAME, model / "1" / MODEL_NAME)
            (model / CONFIG_NAME).write_text(triton_config(manifest, digest=package_digest(package), max_rows=max_rows))
            _put_in_place(fresh, out)
    except OSError as error:
        raise PackageError(f"Triton repository {out}: cannot be written: {error.strerror or error}") from error
    return out


def triton_config(manifest: Manifest, *, digest: str, max_rows: int) -> str:
    """Return the `config.pbtxt` of a package's model, in protobuf's text format.

    Requests are batched if the manifest's benchmark timed this variant: up to the fastest size by rows a second, and no
    request waits longer than one row takes at the median.

    Args:
        manifest: The package's manifest.
        digest: Of the package; kept as a parameter, so that the repository says where it comes from.
        max_rows: Rows in one request or batch.
    """
    lines = [
        f"name: {_text(manifest.name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_rows}",
        *(_tensor("input", spec) for spec in manifest.signature.inputs),
        *(_tensor("output", spec) for spec in manifest.signature.outputs),
        *_batching(manifest, max_rows),
        *_instances(manifest),
        _parameter("intra_op_thread_count", str(manifest.runtime.intra_op_threads)),
        _parameter(DIGEST_PARAMETER, digest),
    ]
    return "\n".join(lines) + "\n"


def _tensor(role: str, spec: TensorSpec) -> str:
    """The batch axis is not among the dims; a tensor that has no other one is reshaped, since dims may not be empty."""
    dims = spec.shape[1:]
    reshape = "" if dims else " reshape { shape: [ ] }"
    listed = ", ".join(str(dim) for dim in dims or (1,))
    return f"{role} {{ name: {_text(spec.name)} data_type: {_TYPES[spec.datatype]} dims: [ {listed} ]{reshape} }}"


def _batching(manifest: Manifest, max_rows: int) -> list[str]:
    timed = [row for row in _own_rows(manifest) if row.batch <= max_rows]
    if not timed:
        return []
    best = max(timed, key=lambda row: row.rows_per_second)
    single = min(timed, key=lambda row: row.batch)
    delay = max(1, round(single.p50_us))
    return [f"dynamic_batching {{ preferred_batch_size: [ {best.batch} ] max_queue_delay_microseconds: {delay} }}"]


def _own_rows(manifest: Manifest) -> list[BenchmarkRow]:
    names = {manifest.variant.name, f"{manifest.variant.candidate}/{manifest.variant.name}"}
    return [row for row in manifest.benchmark if row.variant in names]


def _instances(manifest: Manifest) -> list[str]:
    providers, level = manifest.runtime.providers, _LEVELS.get(manifest.runtime.graph_optimization)
    graph = f" graph {{ level: {level} }}" if level is not None else ""
    on_gpu = any(name.startswith(("CUDA", "Tensorrt")) for name in providers)
    accelerator = (
        ' execution_accelerators { gpu_execution_accelerator: [ { name: "tensorrt"'
        ' parameters { key: "trt_engine_cache_enable" value: "1" }'
        f' parameters {{ key: "trt_engine_cache_path" value: "{_SCRATCH}" }} }} ] }}'
        if "TensorrtExecutionProvider" in providers
        else ""
    )
    optimization = [f"optimization {{{graph}{accelerator} }}"] if graph or accelerator else []
    return [f"instance_group [ {{ count: 1 kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }} ]", *optimization]


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_text(key)} value: {{ string_value: {_text(value)} }} }}"


def _text(value: str) -> str:
    """A string of protobuf's text format, which knows the escapes of JSON."""
    return json.dumps(value, ensure_ascii=False)


def _check_features(manifest: Manifest, *, supplied: bool) -> None:
    looked_up = [spec.name for spec in manifest.signature.inputs if spec.source == "feature"]
    if looked_up and not supplied:
        raise PackageError(
            f"model {manifest.name}: needs looked-up features ({', '.join(looked_up)}), and Triton looks up none; serve it "
            "with tidegate serve, or put a transformer in front that supplies them and say --features-supplied"
        )


def _check_types(package: Path, manifest: Manifest) -> None:
    """Compare with the graph: Triton refuses a model whose configuration names other types than the graph has."""
    from tidegate.packaging.manifest import Runtime
    from tidegate.packaging.session import open_session

    session = open_session(package / MODEL_NAME, Runtime(graph_optimization="disabled"))
    graph = {node.name: _GRAPH_TYPES.get(node.type) for node in [*session.get_inputs(), *session.get_outputs()]}
    for spec in [*manifest.signature.inputs, *manifest.signature.outputs]:
        if graph.get(spec.name) != spec.datatype:
            raise PackageError(
                f"package {package}: {spec.name} is {spec.datatype} in the signature and {graph.get(spec.name)} in the graph; "
                "package again"
            )
        if not spec.shape or spec.shape[0] != -1:
            raise PackageError(
                f"package {package}: {spec.name} has shape {list(spec.shape)}; its first axis must be the batch's"
            )


def _refuse_to_overwrite(out: Path, name: str) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise PackageError(f"Triton repository {out}: exists and is not a directory; choose another place")
    found = {entry.name for entry in out.iterdir()}
    if found and (found != {name} or not (out / name / CONFIG_NAME).is_file()):
        raise PackageError(f"Triton repository {out}: the directory holds something else than {name}; choose another place")


@contextmanager
def _fresh_folder_beside(out: Path) -> Iterator[Path]:
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put_in_place(fresh: Path, out: Path) -> None:
    fresh.chmod(0o755)
    with _fresh_folder_beside(out) as aside:
        if out.exists():
            out.rename(aside / "replaced")
        fresh.rename(out)
