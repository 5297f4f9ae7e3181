"""Lets Olive search for its pick of an ONNX graph, in Olive's own environment, which need not have Tidegate.

    OLIVE_PYTHON benchmarks/optimization/olive_search.py GRAPH.onnx ROWS.npz OUT [--bert HIDDEN HEADS]

Writes OUT/pick.json: the file of Olive's pick, the session options it found, and its passes. Olive runs one workflow for
each of no, dynamic and static quantization, with its own session tuning and held to one thread: transformer fusions where the
graph is one, the peephole optimizer, the quantization, the session's parameters. Its own latency evaluator, for one row, ranks.
"""

import argparse
import itertools
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from olive import run
from olive.data.registry import Registry


class Rows:
    """The rows of an npz, one at a time, as Olive wants a dataset: (inputs, label)."""

    def __init__(self, file: Path, rows: int) -> None:
        """Read all of them."""
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name][:rows] for name in archive.files}
        self._arrays = {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in arrays.items()}

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, row: int) -> tuple[dict[str, np.ndarray], int]:
        return {name: array[row : row + 1] for name, array in self._arrays.items()}, 0


@Registry.register_dataset()
def real_rows(file: str, rows: int, **_: object) -> Rows:
    """Make the dataset."""
    return Rows(Path(file), rows)


@Registry.register_dataloader()
def one_by_one(dataset: Rows, **_: object) -> list[tuple[dict[str, np.ndarray], int]]:
    """Give every row as a batch of its own; torch's loader would make tensors, which hold no texts."""
    return [dataset[row] for row in range(len(dataset))]


def _data(name: str, file: Path, rows: int) -> dict[str, object]:
    return {
        "name": name,
        "type": "DataContainer",
        "load_dataset_config": {"type": "real_rows", "params": {"file": str(file), "rows": rows}},
        "pre_process_data_config": {"type": "skip_pre_process"},
        "post_process_data_config": {"type": "skip_post_process"},
        "dataloader_config": {"type": "one_by_one"},
    }


def _passes(bert: list[int] | None, quantize: str | None, threads: int | None) -> dict[str, object]:
    found: dict[str, object] = {}
    if bert:
        hidden, heads = bert
        found["fusions"] = {
            "type": "OrtTransformersOptimization",
            "model_type": "bert",
            "hidden_size": hidden,
            "num_heads": heads,
        }
    found["peephole"] = {"type": "OnnxPeepholeOptimizer"}
    if quantize == "dynamic":
        found["dynamic quantization"] = {"type": "OnnxDynamicQuantization"}
    if quantize == "static":
        found["static quantization"] = {"type": "OnnxStaticQuantization", "data_config": "calibration"}
    tuning = {"type": "OrtSessionParamsTuning", "data_config": "latency", "device": "cpu", "io_bind": False}
    found["session tuning"] = tuning if threads is None else tuning | {"intra_thread_num_list": threads}
    return found


def _config(graph: Path, rows: Path, out: Path, passes: dict[str, object]) -> dict[str, object]:
    latency = {
        "name": "latency",
        "type": "latency",
        "data_config": "latency",
        "sub_types": [{"name": "avg", "priority": 1}],
        "user_config": {"inference_settings": {"onnx": {"execution_provider": ["CPUExecutionProvider"]}}},
    }
    return {
        "input_model": {"type": "ONNXModel", "model_path": str(graph)},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [_data("latency", rows, 1), _data("calibration", rows, 128)],
        "evaluators": {"speed": {"type": "OnnxEvaluator", "metrics": [latency]}},
        "passes": passes,
        "evaluator": "speed",
        "evaluate_input_model": False,
        "host": "here",
        "target": "here",
        "cache_dir": str(out / "cache"),
        "output_dir": str(out / "output"),
        "log_severity_level": 3,
    }


def _attempt(graph: Path, rows: Path, folder: Path, passes: dict[str, object]) -> dict[str, object]:
    """Run one workflow; one that Olive cannot do is listed with its error."""
    try:
        model = run(_config(graph, rows, folder, passes)).get_best_candidate()
        return {
            "passes": list(passes),
            "model": str(shutil.copy(model.model_path, folder / "model.onnx")),
            "latency_ms": model.metrics_value["latency-avg"]["value"],
            "session": model.get_inference_config() or {},
        }
    except Exception as error:  # whatever its parts raise, the other attempts count
        return {"passes": list(passes), "error": " ".join(str(error).split())[:300]}


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graph", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bert", type=int, nargs=2, metavar=("HIDDEN", "HEADS"))
    options = parser.parse_args()
    graph, rows, out = (path.resolve() for path in (options.graph, options.rows, options.out))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # Olive leaves files where it is run
        attempts = []
        for quantize, threads in itertools.product((None, "dynamic", "static"), (None, 1)):
            own = out / f"{quantize or 'plain'}-{threads or 'tuned'}"
            attempts.append(_attempt(graph, rows, own, _passes(options.bert, quantize, threads)))
    done = [attempt for attempt in attempts if "model" in attempt]
    pick = min(done, key=lambda attempt: attempt["latency_ms"], default=None)
    (out / "pick.json").write_text(json.dumps({"pick": pick, "attempts": attempts}, indent=2, default=str) + "\n")


if __name__ == "__main__":
    _main()
