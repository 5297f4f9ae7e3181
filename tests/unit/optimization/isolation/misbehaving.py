"""A worker that does what no worker should."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np

from tidegate.errors import DataError


class Misbehaving:
    def __init__(self, greeting: str = "hello") -> None:
        if greeting == "refuse":
            raise DataError("no such greeting")
        self._greeting = greeting
        self._held: list[np.ndarray] = []

    def greet(self, name: str) -> str:
        sys.stdout.write("this goes to no terminal\n")
        return f"{self._greeting}, {name}"

    def pid(self) -> int:
        return os.getpid()

    def fail(self) -> None:
        raise ValueError("two\nlines")

    def run_out_of_memory(self) -> None:
        raise MemoryError

    def segfault(self) -> None:
        ctypes.string_at(0)

    def abort(self) -> None:
        sys.stderr.write("terminate called: no such kernel\n")
        sys.stderr.flush()
        os.abort()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def exit(self) -> None:
        os._exit(3)

    def hang(self, seconds: float) -> None:
        time.sleep(seconds)

    def eat(self, megabytes: int) -> None:
        self._held.append(np.ones(megabytes * 125_000))
        time.sleep(30)

    def start_child(self) -> int:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid

    def run_graph(self, graph: bytes, threads: int) -> np.ndarray:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": np.ones((64, 256), np.float32)})[0]
