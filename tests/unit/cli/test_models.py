import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tidegate.cli.main import run
from tidegate.packaging.format.manifest import SearchRow, SourceFacts
from tidegate.packaging.format.package import copy_package, read_manifest
from tidegate.registry.registry import ModelRegistry
from tidegate.storage import open_store

MODEL = "flights-late"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def registry(store: str, make_package: Callable[..., Path]) -> ModelRegistry:
    """Versions 1 to 3; the champion went from 1 to 2."""
    registry = ModelRegistry(open_store(store), actor="ada@lab")
    for content in ("a", "b", "c"):
        registry.register(make_package(content), reason=f"trained [{content}]")
    registry.move_alias(MODEL, "champion", 1, reason="first", expected=None)
    registry.move_alias(MODEL, "champion", 2, reason="better", expected=1)
    return registry


@pytest.fixture
def tidegate(store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `tidegate models …` on the store; gives status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def models(*arguments: str, where: str | None = store) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run(["models", *arguments, *(["--store", where] if where else [])])
        written = capsys.readouterr()
        return int(ended.value.code or 0), written.out, written.err

    return models


def _json(ran: tuple[int, str, str]) -> Any:
    status, out, err = ran
    assert (status, err) == (0, "")
    return json.loads(out)


def test_list_models(registry: ModelRegistry, tidegate: Run) -> None:
    assert _json(tidegate("list", "--json")) == [{"name": MODEL, "latest": 3, "aliases": {"champion": 2}}]
    assert "flights-late │ 3      │ champion 2" in tidegate("list")[1]


def test_list_of_nothing(tidegate: Run) -> None:
    assert _json(tidegate("list", "--json")) == []
    assert tidegate("list") == (0, "no models yet\n", "")


def test_list_versions(registry: ModelRegistry, tidegate: Run) -> None:
    rows = _json(tidegate("list", MODEL, "--json"))
    _, table, _ = tidegate("list", MODEL)

    assert [(row["version"], row["aliases"], row["reason"]) for row in rows] == [
        (1, [], "trained [a]"),
        (2, ["champion"], "trained [b]"),
        (3, [], "trained [c]"),
    ]
    assert rows[0]["metrics"] == {"roc_auc": 0.71}
    assert rows[0]["variant"] == "trees/baseline"
    for text in ("trained [c]", "champion", "trees/baseline", "roc_auc 0.71"):
        assert text in table


@pytest.mark.parametrize(("arguments", "version"), [(["1"], 1), (["champion"], 2), ([], 2)], ids=["number", "alias", "default"])
def test_show(registry: ModelRegistry, tidegate: Run, arguments: list[str], version: int) -> None:
    shown = _json(tidegate("show", MODEL, *arguments, "--json"))
    _, text, _ = tidegate("show", MODEL, *arguments)

    assert shown["version"] == version
    assert shown["uri"] == registry.uri(MODEL, version)
    assert shown["manifest"]["variant"]["candidate"] == "trees"
    assert [event["reason"] for event in shown["events"]][-1] == "better"
    assert f"flights-late version {version}" in text
    assert "champion moved from version 1 to version 2" in text


def test_verify(registry: ModelRegistry, tidegate: Run) -> None:
    shown = _json(tidegate("verify", MODEL, "3", "--json"))

    assert (shown["name"], shown["version"], shown["files"], shown["valid"]) == (MODEL, 3, 5, True)
    assert (shown["schema_version"], shown["signature"], shown["signed_by"]) == (3, "none", None)
    assert shown["digest"] == registry.versions(MODEL)[2].digest
    assert tidegate("verify", MODEL, "3")[1].startswith("valid  flights-late version 3: 5 files")


def test_verify_of_a_damaged_version(registry: ModelRegistry, tidegate: Run, store: str) -> None:
    (Path(store) / "models" / MODEL / "versions" / "3" / "model.onnx").write_bytes(b"damaged")

    status, out, err = tidegate("verify", MODEL, "3")

    assert (status, out) == (1, "")
    assert err.startswith("error: package ")
    assert "model.onnx" in err
    assert err.count("\n") == 1


def test_show_tells_the_source_the_task_and_the_search(store: str, tidegate: Run, make_package: Callable[..., Path]) -> None:
    package = make_package("a")
    manifest = msgspec.structs.replace(
        read_manifest(package),
        source=SourceFacts(framework="XGBoost", version="3.1", kind="XGBClassifier"),
        tools={"xgboost": "3.1"},
        search=(SearchRow(variant="trees/fp16", status="not-applicable", reason="[no] MatMul"),),
    )
    copy_package(package, package, manifest)
    ModelRegistry(open_store(store)).register(package, reason="why")

    _, text, _ = tidegate("show", MODEL, "1")

    for told in ("binary-classification", "XGBoost 3.1, XGBClassifier", "xgboost 3.1", "not applicable", "[no] MatMul"):
        assert told in text
    assert _json(tidegate("show", MODEL, "1", "--json"))["manifest"]["search"][0]["reason"] == "[no] MatMul"


def test_show_of_a_model_without_classes(store: str, tidegate: Run, make_package: Callable[..., Path]) -> None:
    package = make_package("a")
    manifest = read_manifest(package)
    (output,) = manifest.signature.outputs
    signature = msgspec.structs.replace(manifest.signature, outputs=(msgspec.structs.replace(output, name="prediction"),))
    changes = {"task": "regression", "signature": signature, "classes": (), "threshold": None}
    copy_package(package, package, msgspec.structs.replace(manifest, **changes))
    ModelRegistry(open_store(store)).register(package, reason="why")

    assert "regression" in tidegate("show", MODEL, "1")[1]


def test_promote_and_rollback(registry: ModelRegistry, tidegate: Run) -> None:
    promoted = _json(tidegate("promote", MODEL, "3", "--reason", "by hand", "--expected", "2", "--json"))
    assert promoted == {"name": MODEL, "alias": "champion", "version": 3, "previous": 2, "reason": "by hand"}

    back = _json(tidegate("rollback", MODEL, "--reason", "errors rose", "--json"))
    assert (back["version"], back["previous"]) == (2, 3)

    status, out, _ = tidegate("promote", MODEL, "champion", "--alias", "challenger", "--reason", "again")
    assert (status, out) == (0, "challenger of flights-late is at version 2, before: unset\n")
    assert registry.resolve(MODEL, "challenger") == 2


def test_the_store_may_come_from_the_environment(
    registry: ModelRegistry, tidegate: Run, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_STORE", store)

    assert _json(tidegate("list", "--json", where=None))[0]["name"] == MODEL


def test_the_store_is_in_the_default_workspace(
    tidegate: Run, make_package: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEGATE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    ModelRegistry(open_store(".tidegate/store")).register(make_package("a"), reason="why")

    assert _json(tidegate("list", "--json", where=None))[0]["name"] == MODEL


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        pytest.param(["list", "nobody"], 1, "holds no model 'nobody'; its models: flights-late", id="unknown model"),
        pytest.param(["show", MODEL, "9"], 1, "has no version 9; its versions: 1, 2, 3", id="unknown version"),
        pytest.param(["verify", MODEL, "best"], 1, "has no alias 'best'; its aliases: champion", id="unknown alias"),
        pytest.param(
            ["promote", MODEL, "3", "--reason", "why", "--expected", "1"],
            1,
            "is at version 2, not at version 1",
            id="lost race",
        ),
        pytest.param(["rollback", MODEL, "--alias", "best", "--reason", "why"], 1, "has no alias 'best'", id="no rollback"),
        pytest.param(["promote", MODEL, "3", "--reason", " "], 1, "is empty; say why", id="blank reason"),
        pytest.param(["promote", MODEL, "3"], 2, "Missing option '--reason'", id="no reason"),
        pytest.param(
            ["promote", MODEL, "3", "--reason", "why", "--expected", "x"],
            2,
            "Invalid value for '--expected'",
            id="not a number",
        ),
        pytest.param(["list", "../../etc"], 1, "model name '../../etc' must match", id="name that leads out"),
    ],
)
def test_mistakes(registry: ModelRegistry, tidegate: Run, arguments: list[str], status: int, says: str) -> None:
    before = registry.events(MODEL)

    ended, out, err = tidegate(*arguments)

    assert (ended, out) == (status, "")
    assert says in err
    assert "Traceback" not in err
    assert status == 2 or err.count("\n") == 1
    assert registry.events(MODEL) == before


@pytest.mark.parametrize("store", ["gs://bucket", "s3://", "/dev/null/store", "/dev/null"])
def test_impossible_stores(tidegate: Run, store: str) -> None:
    status, out, err = tidegate("promote", MODEL, "1", "--reason", "why", where=store)

    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
