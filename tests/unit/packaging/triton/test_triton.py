"""Triton's model repositories. The configuration is parsed by protobuf's own text parser against the fields and types of
Triton's model_config.proto (triton-inference-server/common at 08365ea) that are used; no Triton loads it here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import small_packages
from tidegate.errors import PackageError
from tidegate.packaging.format.golden import read_golden
from tidegate.packaging.format.manifest import (
    SCHEMA_VERSION,
    BenchmarkRow,
    Manifest,
    PackedInput,
    Runtime,
    Signature,
    TensorSpec,
    Variant,
)
from tidegate.packaging.format.package import copy_package, package_digest, read_manifest
from tidegate.packaging.running.session import GraphSession
from tidegate.packaging.triton.config import triton_config
from tidegate.packaging.triton.repository import write_triton_repository

TYPES = [
    "TYPE_INVALID TYPE_BOOL TYPE_UINT8 TYPE_UINT16 TYPE_UINT32 TYPE_UINT64 TYPE_INT8 TYPE_INT16 TYPE_INT32 TYPE_INT64",
    "TYPE_FP16 TYPE_FP32 TYPE_FP64 TYPE_STRING TYPE_BF16",
]
MESSAGES = {
    "Reshape": "repeated int64 shape 1",
    "Input": "string name 1, DataType data_type 2, repeated int64 dims 4, Reshape reshape 5",
    "Output": "string name 1, DataType data_type 2, repeated int64 dims 3, string label_filename 4, Reshape reshape 5",
    "InstanceGroup": "int32 count 2, Kind kind 4",
    "Graph": "int32 level 1",
    "Accelerator": "string name 1, repeated StringEntry parameters 2",
    "StringEntry": "string key 1, string value 2",
    "ExecutionAccelerators": "repeated Accelerator gpu_execution_accelerator 1",
    "Optimization": "Graph graph 1, ExecutionAccelerators execution_accelerators 4",
    "DynamicBatching": "repeated int32 preferred_batch_size 1, uint64 max_queue_delay_microseconds 2",
    "ParameterValue": "string string_value 1",
    "Parameter": "string key 1, ParameterValue value 2",
    "ModelConfig": (
        "string name 1, string backend 17, int32 max_batch_size 4, repeated Input input 5, repeated Output output 6, "
        "repeated InstanceGroup instance_group 7, DynamicBatching dynamic_batching 11, Optimization optimization 12, "
        "repeated Parameter parameters 14"
    ),
}


def parse(config: str) -> Any:
    return text_format.Parse(config, _model_config()())


def _model_config() -> Any:
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in (("DataType", " ".join(TYPES).split()), ("Kind", ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"])):
        enumeration = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enumeration.value.add(name=value, number=number)
    kinds = descriptor_pb2.FieldDescriptorProto
    scalars = {"string": kinds.TYPE_STRING, "int32": kinds.TYPE_INT32, "int64": kinds.TYPE_INT64, "uint64": kinds.TYPE_UINT64}
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for words in (field.split() for field in fields.split(", ")):
            kind, field, number = words[-3:]
            added = message.field.add(name=field, number=int(number), label=3 if words[0] == "repeated" else 1)
            if kind in scalars:
                added.type = scalars[kind]
            else:
                added.type = kinds.TYPE_ENUM if kind in ("DataType", "Kind") else kinds.TYPE_MESSAGE
                added.type_name = f".inference.{kind}"
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def row(batch: int, p50_us: float, variant: str = "trees/graph-optimized", *, concurrency: int = 1) -> BenchmarkRow:
    per_second = batch / p50_us * 1e6 * concurrency
    return BenchmarkRow(
        variant=variant,
        batch=batch,
        concurrency=concurrency,
        p50_us=p50_us,
        p95_us=p50_us,
        p99_us=p50_us,
        rows_per_second=per_second,
        ratio=1,
        ratio_low=1,
        ratio_high=1,
    )


def manifest(**fields: Any) -> Manifest:
    standard: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "task": "binary-classification",
        "name": "flights-late",
        "signature": Signature(
            inputs=(
                TensorSpec(name="carrier", datatype="BYTES", shape=(-1, 1)),
                TensorSpec(name="image", datatype="FP16", shape=(-1, 3, 8, 8)),
                TensorSpec(name="hour", datatype="UINT16", shape=(-1,)),
                TensorSpec(name="tokens", datatype="INT64", shape=(-1, -1), sizes=((3, 60),)),
            ),
            outputs=(TensorSpec(name="probability", datatype="FP32", shape=(-1,)),),
        ),
        "classes": ("0", "1"),
        "threshold": 0.5,
        "variant": Variant(name="graph-optimized", candidate="trees"),
        "runtime": Runtime(),
        "metrics": {},
        "files": {},
    }
    return Manifest(**(standard | fields))


@pytest.fixture
def package(tiny_package: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copy the tiny package with another manifest."""

    def make(**fields: Any) -> Path:
        to = tmp_path / "package"
        copy_package(tiny_package, to, msgspec.structs.replace(read_manifest(tiny_package), **fields))
        return to

    return make


def test_the_layout_is_what_triton_wants(tiny_package: Path, tmp_path: Path) -> None:
    out = write_triton_repository(tiny_package, tmp_path / "triton", features_supplied=True)

    files = sorted(str(file.relative_to(out)) for file in out.rglob("*") if file.is_file())
    assert files == ["tiny/1/model.onnx", "tiny/config.pbtxt"]
    config = parse((out / "tiny/config.pbtxt").read_text())
    assert config.name == "tiny"
    assert [spec.name for spec in config.input] == [spec.name for spec in read_manifest(tiny_package).signature.inputs]
    assert {entry.key: entry.value.string_value for entry in config.parameters}["tidegate_package"] == package_digest(
        tiny_package
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["triton"]


def test_inputs_and_outputs_are_without_the_batch_axis() -> None:
    config = parse(triton_config(manifest(), digest="sha256:0", max_rows=64))

    described = [
        (spec.name, spec.data_type, list(spec.dims), spec.HasField("reshape")) for spec in [*config.input, *config.output]
    ]
    assert described == [
        ("carrier", 13, [1], False),
        ("image", 10, [3, 8, 8], False),
        ("hour", 3, [1], True),
        ("tokens", 9, [-1], False),
        ("probability", 11, [1], True),
    ]
    assert list(config.input[2].reshape.shape) == []
    assert config.max_batch_size == 64
    assert config.backend == "onnxruntime"


BATCHING = [
    pytest.param((), None, id="no-benchmark"),
    pytest.param(
        (row(1, 12.4), row(32, 90), row(256, 900)), ([32], 12), id="the-fastest-size-and-no-longer-than-one-row-takes"
    ),
    pytest.param((row(1, 0.2),), ([1], 1), id="at-least-a-microsecond"),
    pytest.param((row(1, 10), row(2048, 11)), ([1], 10), id="no-batch-over-the-limit"),
    pytest.param((row(1, 10, "trees/baseline"),), None, id="another-variants-benchmark"),
    pytest.param((row(1, 10, "graph-optimized"),), ([1], 10), id="by-the-variants-own-name"),
    pytest.param((row(8, 10), row(64, 90, concurrency=2)), ([8], 10), id="one-caller-tells-the-batch"),
]


@pytest.mark.parametrize(("benchmark", "expected"), BATCHING)
def test_batching_follows_the_benchmark(benchmark: tuple[BenchmarkRow, ...], expected: Any) -> None:
    config = parse(triton_config(manifest(benchmark=benchmark), digest="sha256:0", max_rows=1024))

    batching = config.dynamic_batching
    found = (list(batching.preferred_batch_size), batching.max_queue_delay_microseconds)
    assert (found if config.HasField("dynamic_batching") else None) == expected


INSTANCES = [
    pytest.param((), 1, id="no-benchmark"),
    pytest.param((row(1, 10), row(1, 11, concurrency=2), row(1, 40, concurrency=4)), 2, id="as-many-calls-at-once-as-pay"),
    pytest.param((row(1, 10), row(1, 19.5, concurrency=2)), 1, id="a-few-percent-do-not-pay"),
    pytest.param((row(1, 10, "trees/baseline", concurrency=8),), 1, id="another-variants-benchmark"),
]


@pytest.mark.parametrize(("benchmark", "count"), INSTANCES)
def test_instances_follow_the_benchmark_on_a_cpu(benchmark: tuple[BenchmarkRow, ...], count: int) -> None:
    on_gpu = Runtime(providers=("CUDAExecutionProvider",))
    for runtime, expected in ((Runtime(), count), (on_gpu, 1)):
        config = parse(triton_config(manifest(benchmark=benchmark, runtime=runtime), digest="sha256:0", max_rows=8))
        assert [group.count for group in config.instance_group] == [expected]


def test_provider_options_become_those_of_the_backend() -> None:
    runtime = Runtime(
        providers=("TensorrtExecutionProvider", "CUDAExecutionProvider"),
        provider_options={
            "TensorrtExecutionProvider": {
                "trt_fp16_enable": "True",
                "trt_layer_norm_fp32_fallback": "True",
                "trt_builder_optimization_level": "3",
                "trt_max_workspace_size": "1024",
                "trt_profile_max_shapes": "image:64x3x8x8",
                "trt_engine_hw_compatible": "1",
            },
            "CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": "1"},
        },
    )

    config = parse(triton_config(manifest(runtime=runtime), digest="sha256:0", max_rows=64))

    accelerators = {
        entry.name: {option.key: option.value for option in entry.parameters}
        for entry in config.optimization.execution_accelerators.gpu_execution_accelerator
    }
    assert accelerators == {
        "tensorrt": {
            "precision_mode": "FP16",
            "trt_layer_norm_fp32_fallback": "1",
            "trt_builder_optimization_level": "3",
            "max_workspace_size_bytes": "1024",
            "trt_profile_max_shapes": "image:64x3x8x8",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": "/tmp/tensorrt",
        },
        "cuda": {"use_tf32": "0"},
    }
    parameters = {entry.key: entry.value.string_value for entry in config.parameters}
    assert parameters["cudnn_conv_algo_search"] == "1"


def test_shapes_of_packed_inputs_are_not_passed_on() -> None:
    options = {"TensorrtExecutionProvider": {"trt_profile_max_shapes": "packed_fp32:64x4"}}
    runtime = Runtime(providers=("TensorrtExecutionProvider",), provider_options=options)
    packing = (PackedInput(name="packed_fp32", datatype="FP32", columns=("a", "b")),)

    config = triton_config(manifest(runtime=runtime, packing=packing), digest="sha256:0", max_rows=64)

    assert "packed_fp32" not in config


def test_parallel_execution_is_passed_on() -> None:
    runtime = Runtime(intra_op_threads=2, inter_op_threads=3, execution="parallel")
    config = parse(triton_config(manifest(runtime=runtime), digest="sha256:0", max_rows=64))
    parameters = {entry.key: entry.value.string_value for entry in config.parameters}
    assert parameters == {
        "intra_op_thread_count": "2",
        "execution_mode": "1",
        "inter_op_thread_count": "3",
        "tidegate_package": "sha256:0",
    }


RUNTIMES = [
    pytest.param(Runtime(), 2, None, [], id="cpu"),
    pytest.param(Runtime(providers=("CUDAExecutionProvider",)), 1, None, [], id="cuda"),
    pytest.param(
        Runtime(providers=("TensorrtExecutionProvider", "CUDAExecutionProvider")), 1, None, ["tensorrt"], id="tensorrt"
    ),
    pytest.param(Runtime(graph_optimization="basic"), 2, -1, [], id="basic"),
    pytest.param(Runtime(graph_optimization="extended"), 2, 1, [], id="extended"),
    pytest.param(Runtime(graph_optimization="disabled"), 2, 2, [], id="disabled"),
    pytest.param(Runtime(providers=("TensorrtExecutionProvider",), graph_optimization="basic"), 1, -1, ["tensorrt"], id="both"),
]


@pytest.mark.parametrize(("runtime", "kind", "level", "accelerators"), RUNTIMES)
def test_instances_and_optimization_follow_the_runtime(
    runtime: Runtime, kind: int, level: Any, accelerators: list[str]
) -> None:
    config = parse(triton_config(manifest(runtime=runtime), digest="sha256:0", max_rows=1))

    assert [(group.kind, group.count) for group in config.instance_group] == [(kind, 1)]
    assert (config.optimization.graph.level if config.optimization.HasField("graph") else None) == level
    assert [entry.name for entry in config.optimization.execution_accelerators.gpu_execution_accelerator] == accelerators


@settings(max_examples=100)
@given(name=st.text(min_size=1, max_size=12))
def test_any_name_of_a_tensor_survives_the_text_format(name: str) -> None:
    signature = Signature(inputs=(TensorSpec(name=name, datatype="FP32", shape=(-1, 1)),), outputs=())

    config = parse(triton_config(manifest(signature=signature), digest="sha256:0", max_rows=1))

    assert [spec.name for spec in config.input] == [name]


def test_a_packed_graph_is_unpacked_and_answers_the_same(tiny_package: Path, tmp_path: Path) -> None:
    packed = read_manifest(tiny_package)
    assert [part.name for part in packed.packing] == ["packed_fp32"]

    out = write_triton_repository(tiny_package, tmp_path / "triton", features_supplied=True)

    unpacked = msgspec.structs.replace(packed, packing=())
    graph = GraphSession.of_graph((out / "tiny/1/model.onnx").read_bytes(), Runtime(), unpacked)
    inputs = read_golden(tiny_package / "golden.npz").inputs
    expected = GraphSession.of_package(tiny_package).run(inputs)
    assert graph.run(inputs)["probability"].tolist() == expected["probability"].tolist()


def test_the_classes_of_many_are_named_in_a_file(tmp_path: Path) -> None:
    out = write_triton_repository(small_packages.multiclass(tmp_path / "package"), tmp_path / "triton")

    assert (out / "iris/labels.txt").read_text() == "setosa\nversi color\nvirginica\n"
    [output] = parse((out / "iris/config.pbtxt").read_text()).output
    assert (list(output.dims), output.label_filename) == ([3], "labels.txt")


@pytest.mark.parametrize("make", [small_packages.image, small_packages.tokens, small_packages.every_type])
def test_tensors_of_any_rank_and_type_are_described(make: Callable[[Path], Path], tmp_path: Path) -> None:
    signature = read_manifest(make(tmp_path / "package")).signature

    out = write_triton_repository(tmp_path / "package", tmp_path / "triton")

    config = parse(next(out.glob("*/config.pbtxt")).read_text())
    assert [tuple(spec.dims) for spec in config.input] == [spec.shape[1:] for spec in signature.inputs]
    assert [tuple(spec.dims) for spec in config.output] == [spec.shape[1:] or (1,) for spec in signature.outputs]


def test_a_package_that_needs_features_is_refused_unless_somebody_supplies_them(tiny_package: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"needs looked-up features \(weather__temp, route__delay\).*--features-supplied"):
        write_triton_repository(tiny_package, tmp_path / "triton")

    assert not (tmp_path / "triton").exists()


def test_digests_are_checked_first(package: Callable[..., Path], tmp_path: Path) -> None:
    damaged = package()
    (damaged / "model.onnx").write_bytes(b"\0" * (damaged / "model.onnx").stat().st_size)

    with pytest.raises(PackageError, match=r"model.onnx has sha256"):
        write_triton_repository(damaged, tmp_path / "triton", features_supplied=True)

    assert not (tmp_path / "triton").exists()


def _with_first_input(signature: Signature, **fields: Any) -> Signature:
    first, *others = signature.inputs
    return Signature(inputs=(msgspec.structs.replace(first, **fields), *others), outputs=signature.outputs)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"datatype": "FP32"}, "is FP32 in the signature and BYTES in the graph", id="another-datatype"),
        pytest.param({"name": "else"}, "and None in the graph", id="another-name"),
        pytest.param({"shape": (8, 1)}, "its first axis must be the batch's", id="fixed-batch"),
        pytest.param({"shape": ()}, "its first axis must be the batch's", id="no-axis"),
    ],
)
def test_a_signature_that_the_graph_does_not_have_is_refused(
    package: Callable[..., Path], tiny_package: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    signed = package(signature=_with_first_input(read_manifest(tiny_package).signature, **fields))

    with pytest.raises(PackageError, match=message):
        write_triton_repository(signed, tmp_path / "triton", features_supplied=True)


@pytest.mark.parametrize("name", ["a/b", "..", ".hidden", "", "two words"])
def test_a_name_that_is_no_folders_is_refused(package: Callable[..., Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageError, match="cannot be a folder's"):
        write_triton_repository(package(name=name), tmp_path / "triton", features_supplied=True)


def test_at_least_one_row_must_be_allowed(tiny_package: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="max_rows 0 must be at least 1"):
        write_triton_repository(tiny_package, tmp_path / "triton", features_supplied=True, max_rows=0)


def test_an_earlier_repository_of_the_model_is_replaced(tiny_package: Path, tmp_path: Path) -> None:
    out = write_triton_repository(tiny_package, tmp_path / "triton", features_supplied=True)
    (out / "tiny/1/model.onnx").write_bytes(b"old")

    write_triton_repository(tiny_package, out, features_supplied=True)

    assert (out / "tiny/1/model.onnx").read_bytes() != b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["triton"]


def _a_file(out: Path) -> None:
    out.write_text("mine")


def _other_things(out: Path) -> None:
    out.mkdir()
    (out / "notes.txt").write_text("mine")


def _another_model(out: Path) -> None:
    (out / "other").mkdir(parents=True)
    (out / "other/config.pbtxt").write_text("mine")


def _a_link(out: Path) -> None:
    out.symlink_to(out.parent)


@pytest.mark.parametrize("there", [_a_file, _other_things, _another_model, _a_link])
def test_nothing_else_is_overwritten(tiny_package: Path, tmp_path: Path, there: Callable[[Path], None]) -> None:
    out = tmp_path / "triton"
    there(out)

    with pytest.raises(PackageError, match="choose another place"):
        write_triton_repository(tiny_package, out, features_supplied=True)


def test_a_place_that_cannot_be_written_is_told(tiny_package: Path) -> None:
    with pytest.raises(PackageError, match="cannot be written"):
        write_triton_repository(tiny_package, Path("/proc/triton"), features_supplied=True)


def test_the_command_exports_a_registered_version(tiny_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer
    from typer.testing import CliRunner

    from tidegate.cli import export
    from tidegate.registry.registry import ModelRegistry
    from tidegate.storage import open_store

    app = typer.Typer()
    app.command()(export.command)
    store = tmp_path / "store"
    ModelRegistry(open_store(str(store))).register(tiny_package, reason="test")
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(app, ["tiny", "1", "--store", str(store), "--features-supplied", "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"name": "tiny", "version": 1, "path": str(tmp_path / "triton")}
    assert (tmp_path / "triton/tiny/config.pbtxt").is_file()
