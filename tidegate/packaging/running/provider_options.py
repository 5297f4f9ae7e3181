"""Which options of ONNX Runtime's providers a package may set.

A package is data: nothing of it is executed. Some options name libraries to load (`trt_extra_plugin_lib_paths`), addresses to
call (`gpu_external_alloc`) or files to write (`trt_engine_cache_path`); so only options known to be harmless are taken.
Their meaning is in ONNX Runtime's documentation of its CUDA and TensorRT execution providers.
"""

from collections.abc import Mapping

import msgspec

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import Runtime
from tidegate.packaging.running.gpu import CPU, CUDA, TENSORRT

_ALLOWED = {
    CPU: frozenset({"arena_extend_strategy"}),
    CUDA: frozenset(
        {
            "arena_extend_strategy",
            "cudnn_conv1d_pad_to_nc1d",
            "cudnn_conv_algo_search",
            "cudnn_conv_use_max_workspace",
            "device_id",
            "do_copy_in_default_stream",
            "enable_cuda_graph",
            "enable_skip_layer_norm_strict_mode",
            "fuse_conv_bias",
            "gpu_mem_limit",
            "prefer_nhwc",
            "sdpa_kernel",
            "use_ep_level_unified_stream",
            "use_tf32",
        }
    ),
    TENSORRT: frozenset(
        {
            "device_id",
            "trt_auxiliary_streams",
            "trt_bf16_enable",
            "trt_build_heuristics_enable",
            "trt_builder_optimization_level",
            "trt_context_memory_sharing_enable",
            "trt_cuda_graph_enable",
            "trt_fp16_enable",
            "trt_int8_enable",
            "trt_layer_norm_fp32_fallback",
            "trt_max_partition_iterations",
            "trt_max_workspace_size",
            "trt_min_subgraph_size",
            "trt_profile_max_shapes",
            "trt_profile_min_shapes",
            "trt_profile_opt_shapes",
            "trt_sparsity_enable",
        }
    ),
}


def with_memory_limit(runtime: Runtime, limit: int) -> Runtime:
    """Return a runtime that takes at most `limit` bytes of a GPU for tensors (ONNX Runtime's arena), or what it says if less.

    The arena then grows by what is needed, not to the next power of two. What TensorRT takes for its engine is not counted.
    """
    if CUDA not in runtime.providers:
        return runtime
    chosen = runtime.provider_options.get(CUDA, {})
    least = min(limit, int(chosen.get("gpu_mem_limit", limit)))
    options = {"arena_extend_strategy": "kSameAsRequested", **chosen, "gpu_mem_limit": str(least)}
    return msgspec.structs.replace(runtime, provider_options={**runtime.provider_options, CUDA: options})


def check_options(options: Mapping[str, Mapping[str, str]], what: str) -> None:
    """Refuse options that are not known to be harmless; `what` is whose they are. Raises PackageError."""
    for provider, chosen in options.items():
        allowed = _ALLOWED.get(provider, frozenset())
        unknown = sorted(chosen.keys() - allowed)
        if unknown:
            raise PackageError(
                f"{what}: a package may not set the option {unknown[0]!r} of {provider}; it may set "
                f"{', '.join(sorted(allowed)) or 'none'}"
            )
