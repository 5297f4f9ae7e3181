"""One scrape shows the whole pod: every version served, every worker, and their processes."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.serving.metrics.reading import samples
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.metrics.board import WorkerBoard
from tidegate.serving.metrics.cells import WorkerMetrics
from tidegate.serving.metrics.layout import Family, Layout, MetricsLayout
from tidegate.serving.metrics.memory import KEPT_VERSIONS, SUFFIX, MetricsMemory
from tidegate.serving.metrics.names import (
    COMMON_LABELS,
    CONNECTIONS,
    METRICS,
    PROCESS_CPU,
    PROCESS_FILES,
    PROCESS_MEMORY,
    PROCESS_METRICS,
    PROCESS_START,
    REQUESTS,
    SERVER_LABELS,
    UNUSUAL_VALUES,
    WORKERS_READY,
)
from tidegate.serving.metrics.text import Scrape, render


def labels(version: int) -> dict[str, str]:
    return {"model": "tiny", "version": str(version), "revision": f"v{version}"}


def by_version(text: bytes, name: str = REQUESTS) -> dict[str, float]:
    families = text_string_to_metric_families(text.decode())
    found: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples if sample.name == name):
        found[sample.labels["version"]] = found.get(sample.labels["version"], 0) + sample.value
    return found


@pytest.fixture
def board() -> WorkerBoard:
    board = WorkerBoard(2, labels(1))
    board.enter(0)
    return board


@pytest.fixture
def layout(tiny_manifest: Manifest) -> MetricsLayout:
    return MetricsLayout(tiny_manifest)


def test_every_metric_of_the_list_is_there_with_its_kind_and_labels(
    tmp_path: Path, layout: MetricsLayout, board: WorkerBoard
) -> None:
    MetricsMemory.open(tmp_path, layout, 2, labels(1))
    families = {family.name: family for family in text_string_to_metric_families(Scrape(tmp_path, board)().decode())}
    for metric in METRICS.values():
        family = families.pop(metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name)
        assert (family.type, family.documentation) == (metric.kind, metric.purpose)
        expected = {*metric.labels, *metric.common}
        assert family.samples
        assert all(set(sample.labels) - {"le"} == expected for sample in family.samples), metric.name
    assert families == {}


def test_prometheus_itself_takes_the_text(
    program: Callable[[str], str], tmp_path: Path, layout: MetricsLayout, board: WorkerBoard
) -> None:
    for version in range(3):
        WorkerMetrics(MetricsMemory.open(tmp_path, layout, 2, labels(version)), 0).count_request(200, 1_000_000)
    text = Scrape(tmp_path, board)()
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    complaints = [line for line in (done.stdout + done.stderr).decode().splitlines() if line]
    assert done.returncode == 0, complaints
    assert complaints == []


@pytest.mark.parametrize("value", ['v"3', "back\\slash", "two\nlines", "100 %d", "ümläut {}"])
def test_label_values_of_any_kind_are_read_back(value: str) -> None:
    memory = MetricsMemory(Layout([Family(UNUSUAL_VALUES, (value,))]), 1, {"model": value})
    (family,) = text_string_to_metric_families(render(memory).decode())
    assert family.samples[0].labels == {"model": value, "input": value}


def test_versions_count_on_their_own_and_one_that_is_served_again_goes_on(
    tmp_path: Path, layout: MetricsLayout, board: WorkerBoard
) -> None:
    scrape = Scrape(tmp_path, board)
    WorkerMetrics(MetricsMemory.open(tmp_path, layout, 2, labels(1)), 0).count_request(200, 1)
    assert by_version(scrape()) == {"1": 1}
    WorkerMetrics(MetricsMemory.open(tmp_path, layout, 2, labels(2)), 0).count_request(400, 1)
    assert by_version(scrape()) == {"1": 1, "2": 1}
    WorkerMetrics(MetricsMemory.open(tmp_path, layout, 2, labels(1)), 1).count_request(503, 1)
    assert by_version(scrape()) == {"1": 2, "2": 1}


def test_versions_may_have_other_inputs(tmp_path: Path, layout: MetricsLayout, board: WorkerBoard) -> None:
    MetricsMemory.open(tmp_path, layout, 2, labels(1))
    MetricsMemory.open(tmp_path, Layout([Family(UNUSUAL_VALUES, ("wind",))]), 2, labels(2))
    text = Scrape(tmp_path, board)()
    assert f'{UNUSUAL_VALUES}{{model="tiny",version="2",revision="v2",input="wind"}} 0\n' in text.decode()
    assert text.count(f"# TYPE {UNUSUAL_VALUES} ".encode()) == 1


def test_a_version_with_other_inputs_than_before_begins_anew(tmp_path: Path, layout: MetricsLayout, board: WorkerBoard) -> None:
    scrape = Scrape(tmp_path, board)
    WorkerMetrics(MetricsMemory.open(tmp_path, layout, 2, labels(1)), 0).count_request(200, 1)
    scrape()
    MetricsMemory.open(tmp_path, Layout([Family(UNUSUAL_VALUES, ("wind",))]), 2, labels(1))
    assert samples(scrape(), UNUSUAL_VALUES) == {'{input="wind"}': 0}


def test_the_last_versions_are_kept(tmp_path: Path, layout: MetricsLayout, board: WorkerBoard) -> None:
    watching = Scrape(tmp_path, board)
    for version in range(KEPT_VERSIONS + 3):
        path_before = set(tmp_path.glob(f"*{SUFFIX}"))
        MetricsMemory.open(tmp_path, layout, 1, labels(version))
        (path,) = set(tmp_path.glob(f"*{SUFFIX}")) - path_before
        os.utime(path, (version, version))
        watching()
    for scrape in (watching, Scrape(tmp_path, board)):
        assert set(by_version(scrape())) == {str(version) for version in range(3, KEPT_VERSIONS + 3)}


def test_a_folder_that_is_gone_does_not_end_counting(tmp_path: Path, layout: MetricsLayout, board: WorkerBoard) -> None:
    folder = tmp_path / "metrics"
    metrics = [WorkerMetrics(MetricsMemory.open(folder, layout, 2, labels(version)), 0) for version in range(5)]
    scrape = Scrape(folder, board)
    shutil.rmtree(folder)
    metrics[0].count_request(200, 1)
    expected = {"0": 1, "1": 0, "2": 0, "3": 0, "4": 0}
    assert by_version(scrape()) == expected
    MetricsMemory.open(folder, layout, 2, labels(5))
    assert by_version(scrape()) == expected | {"5": 0}


def test_files_in_use_look_so_and_the_order_of_versions_stays(
    tmp_path: Path, layout: MetricsLayout, board: WorkerBoard
) -> None:
    MetricsMemory.open(tmp_path, layout, 2, labels(1))
    (path,) = tmp_path.iterdir()
    os.utime(path, (1, 1))
    Scrape(tmp_path, board)()
    assert path.stat().st_mtime == 1
    assert path.stat().st_atime > time.time() - 60


def test_what_another_process_counts_is_seen(tmp_path: Path, layout: MetricsLayout, board: WorkerBoard) -> None:
    process = os.fork()
    if process == 0:
        try:
            metrics = WorkerMetrics(MetricsMemory.open(tmp_path, layout, 2, labels(1)), 1)
            for _ in range(1000):
                metrics.count_request(200, 1)
            board.enter(1)
            board.set_ready(1, True)
        finally:
            os._exit(0)
    metrics = WorkerMetrics(MetricsMemory.open(tmp_path, layout, 2, labels(1)), 0)
    for _ in range(1000):
        metrics.count_request(200, 1)
    os.waitpid(process, 0)
    text = Scrape(tmp_path, board)()
    assert by_version(text) == {"1": 2000}
    assert samples(text, WORKERS_READY) == {"": 1}


def test_the_board_shows_each_worker_until_it_is_forgotten(tmp_path: Path, board: WorkerBoard) -> None:
    board.set_ready(0, True)
    board.count_connections(0, 3)
    board.count_connections(0, -1)
    scrape = Scrape(tmp_path, board)
    assert board.is_ready(0)
    assert samples(scrape(), WORKERS_READY) == {"": 1}
    assert samples(scrape(), CONNECTIONS) == {"": 2}
    assert list(samples(scrape(), PROCESS_MEMORY)) == ['{worker="0"}']
    board.forget(0)
    assert not board.is_ready(0)
    assert [samples(scrape(), name) for name in (WORKERS_READY, CONNECTIONS, PROCESS_MEMORY)] == [{"": 0}, {"": 0}, {}]


def test_a_process_is_described_as_the_kernel_sees_it(tmp_path: Path, board: WorkerBoard) -> None:
    text = Scrape(tmp_path, board)()
    memory, cpu, files, start = (samples(text, name)['{worker="0"}'] for name in PROCESS_METRICS)
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    try:
        assert samples(Scrape(tmp_path, board)(), PROCESS_FILES)['{worker="0"}'] >= files + 5
    finally:
        for descriptor in held:
            os.close(descriptor)
    assert 1e7 < memory < 1e11
    assert cpu == pytest.approx(time.process_time(), rel=0.2, abs=1)
    assert time.time() - 86_400 < start < time.time()
    assert set(SERVER_LABELS) < set(COMMON_LABELS)
    assert (METRICS[PROCESS_CPU].kind, METRICS[PROCESS_START].kind) == ("counter", "gauge")


def test_a_worker_that_is_gone_has_no_process(tmp_path: Path, board: WorkerBoard) -> None:
    process = os.fork()
    if process == 0:
        board.enter(1)
        os._exit(0)
    os.waitpid(process, 0)
    assert list(samples(Scrape(tmp_path, board)(), PROCESS_MEMORY)) == ['{worker="0"}']
