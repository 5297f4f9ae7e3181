import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from tidegate.clock import ReplayClock
from tidegate.errors import PackageError, PreconditionFailed, RegistryError, StorageError, TidegateError
from tidegate.packaging.format.package import read_manifest, verify_package
from tidegate.registry.events import Event
from tidegate.registry.registry import ANY, ModelRegistry
from tidegate.storage.directory import DirectoryStore

MakePackage = Callable[..., Path]
MODEL = "flights-late"


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


@pytest.fixture
def registry(store: DirectoryStore) -> ModelRegistry:
    return ModelRegistry(store, actor="ada@lab")


@pytest.fixture
def filled(registry: ModelRegistry, make_package: MakePackage) -> ModelRegistry:
    """Versions 1 to 3; the champion went from 1 to 2."""
    for content in ("a", "b", "c"):
        registry.register(make_package(content), reason=f"trained {content}")
    registry.move_alias(MODEL, "champion", 1, reason="first", expected=None)
    registry.move_alias(MODEL, "champion", 2, reason="better", expected=1)
    return registry


def test_versions_are_numbered_from_one(registry: ModelRegistry, make_package: MakePackage) -> None:
    numbers = [registry.register(make_package(content), reason="why") for content in ("a", "b", "c")]

    assert numbers == [1, 2, 3]
    assert [info.version for info in registry.versions(MODEL)] == [1, 2, 3]


def test_the_same_package_is_one_version(registry: ModelRegistry, make_package: MakePackage) -> None:
    registry.register(make_package("a"), reason="first")
    registry.register(make_package("b"), reason="second")

    assert registry.register(make_package("a"), reason="once more") == 1
    assert [event.reason for event in registry.events(MODEL)] == ["first", "second"]


def test_models_have_numbers_of_their_own(registry: ModelRegistry, make_package: MakePackage) -> None:
    assert registry.register(make_package("a", name="m"), reason="why") == 1
    assert registry.register(make_package("a", name="m2"), reason="why") == 1

    assert registry.models() == ["m", "m2"]
    assert [info.version for info in registry.versions("m")] == [1]


def test_numbers_sort_as_numbers(registry: ModelRegistry, make_package: MakePackage) -> None:
    for number in range(11):
        registry.register(make_package(str(number)), reason="why")

    assert [info.version for info in registry.versions(MODEL)] == list(range(1, 12))


def test_a_version_tells_its_manifest_and_history(tmp_path: Path, store: DirectoryStore, make_package: MakePackage) -> None:
    clock = ReplayClock.create(tmp_path / "clock", datetime(2013, 4, 1, tzinfo=UTC))
    registry = ModelRegistry(store, clock=clock, actor="ada@lab")
    package = make_package("a")
    registry.register(package, reason="initial")
    registry.move_alias(MODEL, "challenger", 1, reason="new", expected=None)

    (info,) = registry.versions(MODEL)

    assert info.manifest == read_manifest(package) == registry.manifest(MODEL, 1)
    assert (info.reason, info.actor, info.aliases) == ("initial", "ada@lab", ("challenger",))
    assert info.event_time == datetime(2013, 4, 1, tzinfo=UTC)
    assert info.logged_at > datetime(2026, 1, 1, tzinfo=UTC)
    assert info.digest.startswith("sha256:")


def test_the_address_serves_as_a_package(filled: ModelRegistry) -> None:
    address = filled.uri(MODEL, 2)

    assert address.endswith("/models/flights-late/versions/2/")
    assert verify_package(Path(address.removeprefix("file://"))) == filled.manifest(MODEL, 2)


def test_download(filled: ModelRegistry, make_package: MakePackage, tmp_path: Path) -> None:
    to = tmp_path / "new" / "copy"

    assert filled.download(MODEL, 2, to) == to
    assert filled.download(MODEL, 2, to) == to, "once more changes nothing"

    assert {path.name: path.read_bytes() for path in to.iterdir()} == {
        path.name: path.read_bytes() for path in make_package("b").iterdir()
    }
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]


def test_download_never_overwrites(filled: ModelRegistry, tmp_path: Path) -> None:
    filled.download(MODEL, 1, tmp_path / "copy")

    with pytest.raises(RegistryError, match=r"cannot download flights-late version 2 to .*copy: it exists"):
        filled.download(MODEL, 2, tmp_path / "copy")
    assert verify_package(tmp_path / "copy") == filled.manifest(MODEL, 1)


def test_download_to_an_impossible_place(filled: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(RegistryError, match=r"cannot write .*file/copy: Not a directory"):
        filled.download(MODEL, 1, tmp_path / "file" / "copy")


@pytest.mark.parametrize("damage", ["altered", "truncated", "missing", "manifest"])
def test_a_damaged_version_is_noticed(filled: ModelRegistry, tmp_path: Path, damage: str) -> None:
    version = Path(filled.uri(MODEL, 1).removeprefix("file://"))
    model = version / "model.onnx"
    if damage == "altered":
        model.write_bytes(bytes(reversed(model.read_bytes())))
    elif damage == "truncated":
        model.write_bytes(model.read_bytes()[:-1])
    elif damage == "missing":
        model.unlink()
    else:
        (version / "package.json").write_text('{"schema_version": 1}')

    for read in (lambda: filled.verify(MODEL, 1), lambda: filled.download(MODEL, 1, tmp_path / "copy")):
        with pytest.raises(PackageError, match=r"package.json" if damage == "manifest" else r"model\.onnx") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "copy").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert filled.verify(MODEL, 2)


def test_a_damaged_package_is_not_registered(registry: ModelRegistry, make_package: MakePackage, store: DirectoryStore) -> None:
    package = make_package("a")
    (package / "model.onnx").write_bytes(b"something else")

    with pytest.raises(PackageError, match=r"model\.onnx"):
        registry.register(package, reason="why")
    assert list(store.list()) == []


def test_a_store_that_ignores_conditions_gets_nothing(tmp_path: Path, make_package: MakePackage) -> None:
    class IgnoresConditions(DirectoryStore):
        def create(self, key: str, data: bytes) -> str:
            return self.put(key, data)

    store = IgnoresConditions(tmp_path / "store")

    with pytest.raises(StorageError, match="ignores conditional writes"):
        ModelRegistry(store).register(make_package("a"), reason="why")
    assert list(store.list()) == []


def test_alias_moves(filled: ModelRegistry) -> None:
    state = filled.alias(MODEL, "champion")

    assert state is not None
    assert (state.version, state.previous, state.sequence, state.reason) == (2, 1, 2, "better")
    assert filled.alias(MODEL, "challenger") is None
    assert list(filled.aliases(MODEL)) == ["champion"]
    assert [info.aliases for info in filled.versions(MODEL)] == [(), ("champion",), ()]


@pytest.mark.parametrize(
    ("expected", "says"),
    [
        pytest.param(1, "is at version 2, not at version 1 as expected", id="another version"),
        pytest.param(None, "is at version 2, not at no version as expected", id="not yet set"),
        pytest.param(7, "is at version 2, not at version 7 as expected", id="no such version"),
    ],
)
def test_a_move_from_elsewhere_is_refused(filled: ModelRegistry, expected: int | None, says: str) -> None:
    before = filled.events(MODEL)

    with pytest.raises(PreconditionFailed, match=says):
        filled.move_alias(MODEL, "champion", 3, reason="why", expected=expected)

    assert filled.resolve(MODEL, "champion") == 2
    assert filled.events(MODEL) == before


def test_a_new_alias_with_an_expectation_is_refused(filled: ModelRegistry) -> None:
    with pytest.raises(PreconditionFailed, match="alias challenger of flights-late is at no version, not at version 1"):
        filled.move_alias(MODEL, "challenger", 3, reason="why", expected=1)
    assert filled.alias(MODEL, "challenger") is None


def test_a_move_from_anywhere_is_made_once(filled: ModelRegistry) -> None:
    first = filled.move_alias(MODEL, "champion", 3, reason="why", expected=ANY)
    second = filled.move_alias(MODEL, "champion", 3, reason="again", expected=ANY)

    assert first == second
    assert [event.version for event in filled.events(MODEL) if event.alias] == [1, 2, 3]


def test_an_alias_never_repeats_its_etag(filled: ModelRegistry) -> None:
    first = filled.alias(MODEL, "champion")
    filled.move_alias(MODEL, "champion", 3, reason="there", expected=2)
    back = filled.move_alias(MODEL, "champion", 2, reason="better", expected=3)

    assert first is not None
    assert back.etag != first.etag


def test_rollback_goes_where_the_alias_was(filled: ModelRegistry) -> None:
    state = filled.rollback(MODEL, reason="errors rose")

    assert (state.version, state.previous, state.reason) == (1, 2, "errors rose")
    assert filled.resolve(MODEL, "champion") == 1


def test_rollback_of_a_first_version_is_refused(registry: ModelRegistry, make_package: MakePackage) -> None:
    registry.register(make_package("a"), reason="why")
    registry.move_alias(MODEL, "champion", 1, reason="first", expected=None)

    with pytest.raises(RegistryError, match="champion of flights-late has no earlier version to roll back to"):
        registry.rollback(MODEL, reason="why")


def test_the_audit_trail_tells_everything_in_order(filled: ModelRegistry) -> None:
    filled.rollback(MODEL, reason="errors rose")

    told = [(event.kind, event.version, event.previous, event.reason) for event in filled.events(MODEL)]

    assert told == [
        ("registered", 1, None, "trained a"),
        ("registered", 2, None, "trained b"),
        ("registered", 3, None, "trained c"),
        ("alias-moved", 1, None, "first"),
        ("alias-moved", 2, 1, "better"),
        ("alias-moved", 1, 2, "errors rose"),
    ]
    assert {event.actor for event in filled.events(MODEL)} == {"ada@lab"}


def test_the_audit_trail_lies_in_the_store_in_order(filled: ModelRegistry, store: DirectoryStore) -> None:
    stored = [msgspec.json.decode(store.get(key).data, type=Event) for key in store.list(f"models/{MODEL}/events/")]

    assert stored == filled.events(MODEL)


@pytest.mark.parametrize(
    ("reference", "version"), [("1", 1), ("3", 3), ("champion", 2), ("007", None), ("4", None), ("0", None), ("nobody", None)]
)
def test_resolve(filled: ModelRegistry, reference: str, version: int | None) -> None:
    if version is not None:
        assert filled.resolve(MODEL, reference) == version
        return
    with pytest.raises(RegistryError, match=r"versions: 1, 2, 3$|aliases: champion$"):
        filled.resolve(MODEL, reference)


@pytest.mark.parametrize(
    ("do", "says"),
    [
        pytest.param(lambda r: r.versions("nobody"), "holds no model 'nobody'; its models: flights-late", id="no model"),
        pytest.param(lambda r: r.uri("nobody", 1), "holds no model 'nobody'", id="address of no model"),
        pytest.param(lambda r: r.resolve("nobody", "champion"), "holds no model 'nobody'", id="alias of no model"),
        pytest.param(lambda r: r.rollback("nobody", reason="why"), "holds no model 'nobody'", id="rollback of no model"),
        pytest.param(lambda r: r.manifest(MODEL, 9), "has no version 9; its versions: 1, 2, 3", id="manifest of no version"),
        pytest.param(lambda r: r.uri(MODEL, 9), "has no version 9; its versions: 1, 2, 3", id="address of no version"),
        pytest.param(lambda r: r.verify(MODEL, 0), "has no version 0", id="version 0"),
        pytest.param(lambda r: r.verify(MODEL, -1), "has no version -1", id="negative version"),
        pytest.param(
            lambda r: r.move_alias(MODEL, "champion", 9, reason="why", expected=ANY),
            "has no version 9",
            id="move to no version",
        ),
        pytest.param(lambda r: r.rollback(MODEL, alias="challenger", reason="why"), "no alias 'challenger'", id="no alias"),
        pytest.param(lambda r: r.resolve(MODEL, "9" * 5000), "must match", id="endless version"),
        pytest.param(lambda r: r.versions("../x"), "model name '../x' must match", id="name that leads out"),
        pytest.param(lambda r: r.uri("", 1), "model name '' must match", id="empty name"),
        pytest.param(lambda r: r.alias(MODEL, "a/b"), "alias 'a/b' must match", id="alias that leads out"),
        pytest.param(
            lambda r: r.move_alias(MODEL, "x" * 64, 1, reason="why", expected=ANY), "at most 63 characters", id="long alias"
        ),
        pytest.param(
            lambda r: r.move_alias(MODEL, "champion", 3, reason=" ", expected=ANY), "reason ' ' is empty", id="no reason"
        ),
    ],
)
def test_unknown_names_are_one_line(filled: ModelRegistry, do: Callable[[ModelRegistry], object], says: str) -> None:
    with pytest.raises(RegistryError) as caught:
        do(filled)

    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_registry_says_so(registry: ModelRegistry) -> None:
    assert registry.models() == []
    with pytest.raises(RegistryError, match="holds no model 'flights-late'; its models: none"):
        registry.versions(MODEL)


@pytest.mark.parametrize("content", [b"", b"{}", b"not json", b"[1, 2]", json.dumps({"id": "x", "kind": "other"}).encode()])
@pytest.mark.parametrize("key", ["aliases/champion.json", "claims/1.json"])
def test_a_damaged_record_is_one_line(filled: ModelRegistry, store: DirectoryStore, key: str, content: bytes) -> None:
    store.put(f"models/{MODEL}/{key}", content)

    with pytest.raises(TidegateError, match=rf"{key} is damaged: .*; restore it") as caught:
        filled.versions(MODEL)
    assert "\n" not in str(caught.value)


def test_foreign_keys_do_not_disturb(filled: ModelRegistry, store: DirectoryStore, make_package: MakePackage) -> None:
    for key in (
        "models/README.md",
        f"models/{MODEL}/versions/x/package.json",
        f"models/{MODEL}/claims/x.json",
        "rollouts/a/1.json",
    ):
        store.put(key, b"foreign")

    assert filled.models() == [MODEL]
    assert filled.register(make_package("d"), reason="why") == 4
