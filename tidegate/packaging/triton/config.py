"""The configuration of a model for NVIDIA's Triton, `config.pbtxt`: what its ONNX Runtime backend is to do with a package.

Names and meanings of the options are those of Triton's model_config.proto and of the backend's README and source
(triton-inference-server/onnxruntime_backend at 00fd3e8).
"""

import json
from collections.abc import Iterator, Mapping

from tidegate.packaging.format.manifest import PROBABILITIES, BenchmarkRow, Datatype, Manifest, TensorSpec

DIGEST_PARAMETER = "tidegate_package"
LABELS_NAME = "labels.txt"

_TYPES: dict[Datatype, str] = {
    "BOOL": "TYPE_BOOL",
    "INT8": "TYPE_INT8",
    "INT16": "TYPE_INT16",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "UINT8": "TYPE_UINT8",
    "UINT16": "TYPE_UINT16",
    "UINT32": "TYPE_UINT32",
    "UINT64": "TYPE_UINT64",
    "FP16": "TYPE_FP16",
    "BF16": "TYPE_FP32",  # as the graph has it: Triton's clients send it 32 bits
    "FP32": "TYPE_FP32",
    "FP64": "TYPE_FP64",
    "BYTES": "TYPE_STRING",
}
_LEVELS = {"basic": -1, "extended": 1, "disabled": 2}
_TENSORRT, _CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
_SCRATCH = "/tmp/tensorrt"  # noqa: S108 - in the pod of the runtime tidegate-triton, an emptyDir
_WORTH_AN_INSTANCE = 1.05

# The backend sets these CUDA options itself, unless they are parameters of the model, some of them as numbers.
_CUDA_PARAMETERS: dict[str, Mapping[str, str]] = {
    "cudnn_conv_algo_search": {"EXHAUSTIVE": "0", "HEURISTIC": "1", "DEFAULT": "2"},
    "arena_extend_strategy": {"kNextPowerOfTwo": "0", "kSameAsRequested": "1"},
    "gpu_mem_limit": {},
    "do_copy_in_default_stream": {},
}
# A captured CUDA graph needs buffers that stay in place, and Triton's do not; the device is the instance's.
_CUDA_LEFT_OUT = frozenset({"enable_cuda_graph", "device_id"})
_PRECISIONS = {"trt_int8_enable": "INT8", "trt_bf16_enable": "BF16", "trt_fp16_enable": "FP16"}  # the backend takes one
_TENSORRT_NAMES = {"trt_max_workspace_size": "max_workspace_size_bytes"}
_TENSORRT_FLAGS = frozenset({"trt_layer_norm_fp32_fallback", "trt_build_heuristics_enable", "trt_sparsity_enable"})
_TENSORRT_VALUES = frozenset(
    {"trt_max_partition_iterations", "trt_min_subgraph_size", "trt_builder_optimization_level", "trt_auxiliary_streams"}
)
_TENSORRT_PROFILES = frozenset({"trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"})


def triton_config(manifest: Manifest, *, digest: str, max_rows: int) -> str:
    """Return the `config.pbtxt` of a package's model, in protobuf's text format.

    Requests are batched if the manifest's benchmark timed this variant: up to the fastest size by rows a second, and no
    request waits longer than one row takes at the median. On a CPU there are as many instances as made calls at once pay.

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
        *(_tensor("output", spec, labels=has_labels(manifest, spec)) for spec in manifest.signature.outputs),
        *_batching(manifest, max_rows),
        f"instance_group [ {{ count: {_instances(manifest)} kind: {'KIND_GPU' if _on_gpu(manifest) else 'KIND_CPU'} }} ]",
        *_optimization(manifest),
        *(_parameter(key, value) for key, value in _parameters(manifest)),
        _parameter(DIGEST_PARAMETER, digest),
    ]
    return "\n".join(lines) + "\n"


def has_labels(manifest: Manifest, output: TensorSpec) -> bool:
    """Return whether each column of an output is a class, so that Triton can answer classes by name."""
    return manifest.task == "multiclass-classification" and output.name == PROBABILITIES


def _tensor(role: str, spec: TensorSpec, *, labels: bool = False) -> str:
    """The batch axis is not among the dims; a tensor that has no other one is reshaped, since dims may not be empty."""
    dims = spec.shape[1:]
    reshape = "" if dims else " reshape { shape: [ ] }"
    listed = ", ".join(str(dim) for dim in dims or (1,))
    file = f" label_filename: {_text(LABELS_NAME)}" if labels else ""
    return f"{role} {{ name: {_text(spec.name)} data_type: {_TYPES[spec.datatype]} dims: [ {listed} ]{reshape}{file} }}"


def _batching(manifest: Manifest, max_rows: int) -> list[str]:
    alone = [row for row in _own_rows(manifest) if row.concurrency == 1 and row.batch <= max_rows]
    if not alone:
        return []
    best = max(alone, key=lambda row: row.rows_per_second)
    single = min(alone, key=lambda row: row.batch)
    delay = max(1, round(single.p50_us))
    return [f"dynamic_batching {{ preferred_batch_size: [ {best.batch} ] max_queue_delay_microseconds: {delay} }}"]


def _instances(manifest: Manifest) -> int:
    """An instance answers one call at a time; on a GPU each has the whole model in memory, so that one must do."""
    rows = sorted(_own_rows(manifest), key=lambda row: row.concurrency)
    if _on_gpu(manifest) or not rows:
        return 1
    rates: dict[int, float] = {}
    for row in rows:
        rates[row.concurrency] = max(row.rows_per_second, rates.get(row.concurrency, 0.0))
    best = max(rates.values())
    return next(callers for callers, rate in rates.items() if rate * _WORTH_AN_INSTANCE >= best)


def _own_rows(manifest: Manifest) -> list[BenchmarkRow]:
    names = {manifest.variant.name, f"{manifest.variant.candidate}/{manifest.variant.name}"}
    return [row for row in manifest.benchmark if row.variant in names]


def _on_gpu(manifest: Manifest) -> bool:
    return any(name in (_CUDA, _TENSORRT) for name in manifest.runtime.providers)


def _optimization(manifest: Manifest) -> list[str]:
    level = _LEVELS.get(manifest.runtime.graph_optimization)
    graph = f" graph {{ level: {level} }}" if level is not None else ""
    listed = ", ".join(
        f"{{ name: {_text(name)}{''.join(f' parameters {{ key: {_text(k)} value: {_text(v)} }}' for k, v in options)} }}"
        for name, options in _accelerators(manifest)
    )
    accelerators = f" execution_accelerators {{ gpu_execution_accelerator: [ {listed} ] }}" if listed else ""
    return [f"optimization {{{graph}{accelerators} }}"] if graph or accelerators else []


def _accelerators(manifest: Manifest) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    runtime = manifest.runtime
    if _TENSORRT in runtime.providers:
        yield "tensorrt", list(_tensorrt_options(manifest))
    cuda = runtime.provider_options.get(_CUDA, {})
    passed_on = sorted((key, value) for key, value in cuda.items() if key not in _CUDA_LEFT_OUT | _CUDA_PARAMETERS.keys())
    if passed_on and _CUDA in runtime.providers:
        yield "cuda", passed_on


def _tensorrt_options(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Options that the backend knows; it refuses others. Shapes name inputs of the packed graph, which Triton does not get."""
    options = manifest.runtime.provider_options.get(_TENSORRT, {})
    precision = next((name for flag, name in _PRECISIONS.items() if _is_on(options.get(flag, ""))), None)
    if precision is not None:
        yield "precision_mode", precision
    for key, value in sorted(options.items()):
        if key in _TENSORRT_FLAGS:
            yield key, "1" if _is_on(value) else "0"
        elif key in _TENSORRT_VALUES or key in _TENSORRT_NAMES or (key in _TENSORRT_PROFILES and not manifest.packing):
            yield _TENSORRT_NAMES.get(key, key), value
    yield "trt_engine_cache_enable", "1"
    yield "trt_engine_cache_path", _SCRATCH


def _parameters(manifest: Manifest) -> Iterator[tuple[str, str]]:
    runtime = manifest.runtime
    yield "intra_op_thread_count", str(runtime.intra_op_threads)
    if runtime.execution == "parallel":
        yield "execution_mode", "1"
        yield "inter_op_thread_count", str(runtime.inter_op_threads)
    for key, value in sorted(runtime.provider_options.get(_CUDA, {}).items()):
        if key in _CUDA_PARAMETERS:
            yield key, _CUDA_PARAMETERS[key].get(value, value)


def _is_on(value: str) -> bool:
    return value.lower() in ("1", "true")


def _parameter(key: str, value: str) -> str:
    return f"parameters {{ key: {_text(key)} value: {{ string_value: {_text(value)} }} }}"


def _text(value: str) -> str:
    """A string of protobuf's text format, which knows the escapes of JSON."""
    return json.dumps(value, ensure_ascii=False)
