"""Writes a model package as a repository of NVIDIA's Triton: `<name>/1/model.onnx` and its `<name>/config.pbtxt`.

    write_triton_repository(Path("out/package"), Path("out/triton"))      # then: aws s3 sync out/triton s3://bucket/triton

Triton does less than Tidegate's own model server: it looks up no features, checks no ranges, writes no inference log, and
does not take `null` for a missing value (send NaN, or an empty string). What a package needs features for must get them from
a transformer in front. Its graph has the signature's own inputs, unpacked, since Triton cannot be told of a packing. A TensorRT
engine is not written: it is good for one version of TensorRT, and Triton's image brings its own, which builds and caches one.
"""

import re
from pathlib import Path

from tidegate.errors import PackageError
from tidegate.packaging.format.manifest import MODEL_NAME, Datatype, Manifest, Runtime
from tidegate.packaging.format.package import package_digest, verify_package
from tidegate.packaging.triton.config import LABELS_NAME, has_labels, triton_config
from tidegate.storage.folders import fresh_folder_beside, put_in_place

CONFIG_NAME = "config.pbtxt"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_GRAPH_TYPES: dict[str, Datatype] = {
    "tensor(bool)": "BOOL",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


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
    graph = _graph(package, manifest)
    _check_types(package, graph, manifest)
    _refuse_to_overwrite(out, manifest.name)
    try:
        with fresh_folder_beside(out) as fresh:
            model = fresh / manifest.name
            (model / "1").mkdir(parents=True)
            (model / "1" / MODEL_NAME).write_bytes(graph)
            (model / CONFIG_NAME).write_text(triton_config(manifest, digest=package_digest(package), max_rows=max_rows))
            if any(has_labels(manifest, output) for output in manifest.signature.outputs):
                (model / LABELS_NAME).write_text("".join(f"{' '.join(name.split())}\n" for name in manifest.classes))
            put_in_place(fresh, out)
    except OSError as error:
        raise PackageError(f"Triton repository {out}: cannot be written: {error.strerror or error}") from error
    return out


def _check_features(manifest: Manifest, *, supplied: bool) -> None:
    looked_up = [spec.name for spec in manifest.signature.inputs if spec.source == "feature"]
    if looked_up and not supplied:
        raise PackageError(
            f"model {manifest.name}: needs looked-up features ({', '.join(looked_up)}), and Triton looks up none; serve it "
            "with tidegate serve, or put a transformer in front that supplies them and say --features-supplied"
        )


def _graph(package: Path, manifest: Manifest) -> bytes:
    raw = (package / MODEL_NAME).read_bytes()
    if not manifest.packing:
        return raw
    import onnx

    from tidegate.packaging.graph_packing import unpack_graph

    unpacked: bytes = unpack_graph(onnx.load_from_string(raw), manifest.packing).SerializeToString()
    return unpacked


def _check_types(package: Path, raw: bytes, manifest: Manifest) -> None:
    """Compare with the graph: Triton refuses a model whose configuration names other types than the graph has."""
    from tidegate.packaging.running.session import open_session

    session = open_session(raw, Runtime(graph_optimization="disabled"))
    graph = {node.name: _GRAPH_TYPES.get(node.type) for node in [*session.get_inputs(), *session.get_outputs()]}
    for spec in [*manifest.signature.inputs, *manifest.signature.outputs]:
        if graph.get(spec.name) != ("FP32" if spec.datatype == "BF16" else spec.datatype):
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
