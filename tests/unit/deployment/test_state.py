import json
import multiprocessing
import os

import pytest

from tidegate.deployment.inference_service import Revision, Service
from tidegate.deployment.local.processes import started_at
from tidegate.deployment.local.state import LocalState, SupervisorRuns, read_json, write_json
from tidegate.errors import DeploymentError

SERVICE = Service("flights", "default", Revision("v1", "file:///m/1/"))


def version(state, name="flights"):
    return int(state.read_service(name)["metadata"]["resourceVersion"])


def test_the_same_spec_again_changes_nothing(tmp_path):
    state = LocalState(tmp_path)
    state.write_service(SERVICE.to_document())
    file = state.services / "flights.json"
    before = file.stat()

    state.write_service(SERVICE.to_document())

    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_versions_rise_over_changes_deletions_and_services(tmp_path):
    state = LocalState(tmp_path)
    seen = []
    for change in (SERVICE, SERVICE.with_canary(Revision("v2", "file:///m/2/"), 5), SERVICE):
        state.write_service(change.to_document())
        seen.append(version(state))
    state.delete_service("flights")
    state.write_service(SERVICE.to_document())
    seen.append(version(state))

    assert seen == sorted(set(seen))


def write_many(root, name):
    state = LocalState(root)
    for percent in range(1, 21):
        service = Service(name, "default", SERVICE.stable).with_canary(Revision("v2", "file:///m/2/"), percent)
        state.write_service(service.to_document())


def test_concurrent_writers_get_versions_of_their_own(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(tmp_path, name)) for name in ("one", "two", "three")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0

    state = LocalState(tmp_path)
    assert state.service_names() == ["one", "three", "two"]
    assert max(version(state, name) for name in state.service_names()) == 60


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("{", "not readable as JSON", id="half"),
        pytest.param("[]", "holds a JSON list, not an object", id="list"),
        pytest.param("\xff", "not readable as JSON", id="noise"),
    ],
)
def test_files_that_are_no_documents(tmp_path, content, message):
    file = tmp_path / "file.json"
    file.write_text(content, encoding="latin-1")

    with pytest.raises(DeploymentError, match=message):
        read_json(file)


def test_a_failed_write_leaves_the_old_document(tmp_path):
    file = tmp_path / "file.json"
    write_json(file, {"a": 1})

    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    with pytest.raises(DeploymentError, match="No such file or directory"):
        write_json(tmp_path / "missing" / "file.json", {})

    assert read_json(file) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_the_supervisor_lock_names_its_holder(tmp_path):
    first, second = LocalState(tmp_path), LocalState(tmp_path)
    first.create()

    held = pytest.raises(DeploymentError, match=rf"runs already in {tmp_path} \(pid {os.getpid()}\)")
    with first.supervisor_lock(), held, second.supervisor_lock():
        pass
    with second.supervisor_lock():
        pass


@pytest.mark.parametrize(
    ("record", "runs"),
    [
        pytest.param({"pid": os.getpid(), "started_at": started_at(os.getpid())}, True, id="runs"),
        pytest.param({"pid": os.getpid(), "started_at": 1}, False, id="its pid was used again"),
        pytest.param({"pid": 2**22 + 1, "started_at": 1}, False, id="died"),
    ],
)
def test_a_supervisors_record_counts_while_it_runs(tmp_path, record, runs):
    state = LocalState(tmp_path)
    state.create()
    state.write_supervisor(record)

    assert (state.read_supervisor() is not None) == runs


def test_a_holder_that_is_not_the_writer_of_the_lock_file_is_not_named(tmp_path):
    first, second = LocalState(tmp_path), LocalState(tmp_path)
    first.create()

    with first.supervisor_lock():
        (first.root / "supervisor.lock").write_text(f"{os.getpid()} 1")
        with pytest.raises(SupervisorRuns) as caught, second.supervisor_lock():
            pass

    assert caught.value.pid is None


def test_a_workspace_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(DeploymentError, match="file: cannot be written: Not a directory"):
        LocalState(tmp_path / "file").write_service(SERVICE.to_document())


def test_reading_creates_nothing(tmp_path):
    state = LocalState(tmp_path / "none")

    assert state.read_service("flights") is None
    assert state.read_status("flights") is None
    assert state.read_supervisor() is None
    state.delete_service("flights")
    assert list(tmp_path.iterdir()) == []


def test_documents_on_disk_are_kserves(tmp_path):
    LocalState(tmp_path).write_service(SERVICE.to_document())

    document = json.loads((tmp_path / "local/services/flights.json").read_text())

    assert document["apiVersion"] == "serving.kserve.io/v1beta1"
    assert Service.from_document(document) == SERVICE
