"""The online store in a real Redis: it holds what a SQLite file holds, older events lose, rows live as long as they must."""

import asyncio
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidegate.errors import FeatureError
from tidegate.features import online_redis
from tidegate.features.online import OnlineReader
from tidegate.features.online_file import online_uri
from tidegate.features.online_opening import open_row_reader, open_row_writer
from tidegate.features.online_rows import Watermark
from tidegate.features.packed_row import pack_key, pack_row, unpack_row, view_prefix
from tidegate.features.redis_address import PASSWORD_VARIABLE, USER_VARIABLE, RedisAddress
from tidegate.features.redis_connection import RedisConnection
from tidegate.features.times import EARLIEST_US, LATEST_US
from tidegate.packaging.format.manifest import FeatureContract, FeatureField, FeatureView

NOW = datetime(2026, 7, 1, tzinfo=UTC)
VIEW = FeatureView(
    name="visits",
    join_keys=("customer",),
    ttl_seconds=3600,
    features=(FeatureField(name="step", datatype="INT64", default=-1), FeatureField(name="mood", datatype="BYTES")),
)
CONTRACT = FeatureContract(service="s", project="shop", views=(VIEW,))
PREFIX = view_prefix("shop", "visits")


def row(customer, event_us, step, created_us=0):
    return pack_key(PREFIX, (customer,)), event_us, created_us, pack_row({"step": step, "mood": "fine"})


def read(store, *customers):
    """Return event time and step of each customer's row."""
    keys = [pack_key(PREFIX, (customer,)) for customer in customers]
    found = asyncio.run(open_row_reader(store.uri).fetch(keys))
    return [(found[key][0], unpack_row(found[key][1])["step"]) if key in found else None for key in keys]


def command(store, *parts):
    connection = RedisConnection(RedisAddress.parse(store.uri), connect_seconds=5, call_seconds=5)
    (reply,) = connection.pipeline([parts])
    connection.close()
    return reply


@pytest.fixture
def store(redis):
    command(redis, "FLUSHALL")
    return redis


@pytest.fixture
def writer(store):
    rows = open_row_writer(store.uri)
    yield rows
    rows.close()


times = st.one_of(
    st.integers(0, 3), st.integers(EARLIEST_US, LATEST_US), st.sampled_from([-1, 2**32, 2**32 - 1, 2**53, -(2**53)])
)
written = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "*?[x]\\^-", "zoë"]), times, st.integers(0, 9), st.integers(-5, 5)), max_size=12
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(written, min_size=1, max_size=4), marks=st.lists(st.tuples(st.sampled_from("ab"), times), max_size=3))
def test_redis_holds_what_a_file_holds(store, tmp_path_factory, batches, marks):
    file = tmp_path_factory.mktemp("file") / "online.db"
    in_file, in_redis = open_row_writer(online_uri(file)), open_row_writer(store.uri)
    in_redis.delete_view("shop", "visits")
    for batch in batches:
        rows = [row(customer, event, step, created) for customer, event, created, step in batch]
        for rows_of in (in_file, in_redis):
            rows_of.write(rows, [Watermark("shop", "visits", until, definition) for definition, until in marks])
    keys = sorted({row(customer, 0, 0)[0] for batch in batches for customer, *_ in batch} | {row("nobody", 0, 0)[0]})

    assert in_redis.read(keys) == in_file.read(keys)
    for definition in "abc":
        assert in_redis.watermark_us("shop", "visits", definition) == in_file.watermark_us("shop", "visits", definition)
    in_file.close()
    in_redis.close()


def test_many_rows_and_the_reader_of_the_server(store, writer):
    writer.write([row(f"c{i}", i, i) for i in range(10_007)], [])

    reader = OnlineReader.open(store.uri, CONTRACT)
    found = asyncio.run(reader.read({"customer": [f"c{i}" for i in range(10_010)]}, datetime(1970, 1, 1, tzinfo=UTC)))

    assert found.columns["visits__step"].tolist() == [*range(10_007), -1, -1, -1]


def test_views_are_deleted_apart(store, writer):
    other = pack_key(view_prefix("shop", "visits*"), ("ann",))
    writer.write([row("ann", 1, 1), (other, 1, 0, pack_row({}))], [Watermark("shop", "visits", 5, "d")])

    writer.delete_view("shop", "visits*")
    assert read(store, "ann") == [(1, 1)]
    writer.delete_view("shop", "visits")

    assert read(store, "ann") == [None]
    assert writer.watermark_us("shop", "visits", "d") is None
    assert command(store, "DBSIZE") == 0


WRITER = """
    import random, sys
    from tidegate.features.online_opening import open_row_writer
    from tidegate.features.packed_row import pack_key, pack_row, view_prefix

    seed = int(sys.argv[2])
    rows, prefix, draw = open_row_writer(sys.argv[1]), view_prefix("shop", "visits"), random.Random(seed)
    events = list(range(300))
    draw.shuffle(events)
    for start in range(0, 300, 20):
        rows.write(
            [
                (pack_key(prefix, (f"c{customer}",)), event * 8 + seed, 0, pack_row({"step": event * 8 + seed, "mood": ""}))
                for event in events[start : start + 20]
                for customer in range(20)
            ],
            [],
        )
"""


def test_the_latest_event_wins_whoever_of_eight_writers_is_last(store):
    writers = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(WRITER), store.uri, str(seed)]) for seed in range(8)]

    assert [process.wait(60) for process in writers] == [0] * 8
    latest = 299 * 8 + 7
    assert read(store, *(f"c{i}" for i in range(20))) == [(latest, latest)] * 20


def microseconds(moment):
    return int(moment.timestamp() * 1e6)


@pytest.mark.parametrize(
    ("age", "lifetime", "left_seconds"),
    [
        pytest.param(timedelta(0), None, None, id="for-ever"),
        pytest.param(timedelta(minutes=10), timedelta(hours=1), 50 * 60, id="until-its-time"),
        pytest.param(timedelta(hours=2), timedelta(hours=1), 0, id="dead-already"),
    ],
)
def test_a_row_lives_as_long_as_it_must(store, writer, age, lifetime, left_seconds):
    event = datetime.now(UTC) - age

    writer.write([row("ann", microseconds(event), 1)], [], lifetime_us=lifetime and lifetime // timedelta(microseconds=1))

    (key,) = command(store, "KEYS", "*") or [b""]
    left = command(store, "PTTL", key)
    if left_seconds is None:
        assert left == -1
    elif left_seconds == 0:
        assert left == -2
    else:
        assert left_seconds - 30 < left / 1000 <= left_seconds + 1


def test_a_row_that_is_to_stay_does_not_inherit_an_expiry(store, writer):
    writer.write([row("ann", microseconds(datetime.now(UTC)), 1)], [], lifetime_us=3_600_000_000)
    writer.write([row("ann", microseconds(datetime.now(UTC)), 2)], [])

    (key,) = command(store, "KEYS", "*")
    assert command(store, "PTTL", key) == -1


@pytest.mark.parametrize(
    ("options", "environment", "message"),
    [
        pytest.param(("--requirepass", "right"), {}, "refuses the login: Authentication required", id="none"),
        pytest.param(("--requirepass", "right"), {PASSWORD_VARIABLE: "wrong"}, "invalid username-password pair", id="wrong"),
        pytest.param((), {PASSWORD_VARIABLE: "any", USER_VARIABLE: "eve"}, "invalid username-password pair", id="unknown-user"),
    ],
)
@pytest.mark.parametrize("open_rows", [open_row_reader, open_row_writer])
def test_a_refused_login_names_the_variable(start_redis, monkeypatch, open_rows, options, environment, message):
    server = start_redis(*options)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(FeatureError, match=message) as caught:
        open_rows(server.uri)

    assert PASSWORD_VARIABLE in str(caught.value)
    assert "wrong;" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_right_password_opens(start_redis, monkeypatch):
    server = start_redis("--requirepass", "right")
    monkeypatch.setenv(PASSWORD_VARIABLE, "right")

    open_row_writer(server.uri).write([row("ann", 1, 5)], [])

    assert read(server, "ann") == [(1, 5)]


def test_the_model_server_needs_no_more_than_to_read(store, writer, monkeypatch):
    writer.write([row("ann", 1, 5)], [])
    command(store, "ACL", "SETUSER", "reader", "on", ">secret", "~tidegate/row/*", "+mget", "+select", "+auth")
    monkeypatch.setenv(USER_VARIABLE, "reader")
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")

    assert read(store, "ann") == [(1, 5)]
    with pytest.raises(FeatureError, match=r"refuses: NOPERM"):
        open_row_writer(store.uri).write([row("ann", 2, 6)], [])


def test_who_may_log_in_but_not_read_is_told_at_once(store, monkeypatch):
    command(store, "ACL", "SETUSER", "nobody", "on", ">secret", "+select", "+auth")
    monkeypatch.setenv(USER_VARIABLE, "nobody")
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")

    with pytest.raises(FeatureError, match=r"refuses: NOPERM"):
        open_row_reader(store.uri)


def test_a_redis_without_memory_is_one_line_and_the_watermark_stays(start_redis):
    server = start_redis("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    writer = open_row_writer(server.uri)

    with pytest.raises(FeatureError, match="OOM"):
        writer.write([row(f"c{i}" * 20, 1, 1) for i in range(20_000)], [Watermark("shop", "visits", 9, "d")])

    assert writer.watermark_us("shop", "visits", "d") is None


@pytest.mark.parametrize("open_rows", [open_row_reader, open_row_writer])
def test_nobody_there_is_one_line(monkeypatch, open_rows):
    monkeypatch.setattr(online_redis, "_PATIENCE_SECONDS", 0.3)
    began = time.monotonic()

    with pytest.raises(FeatureError, match=r"^online store redis://127\.0\.0\.1:1/0: cannot be reached: connection refused$"):
        open_rows("redis://127.0.0.1:1")

    assert time.monotonic() - began < 5


def test_a_writer_outlives_a_restart(start_redis):
    server = start_redis()
    writer = open_row_writer(server.uri)
    writer.write([row("ann", 1, 1)], [])
    server.kill()
    server.start(wait=False)

    writer.write([row("bob", 2, 2)], [Watermark("shop", "visits", 9, "d")])

    assert read(server, "ann", "bob") == [(1, 1), (2, 2)]


def certificate_of_localhost(folder):
    """Write cert.pem and key.pem of an authority of its own into `folder`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


def test_tls(start_redis, tmp_path, monkeypatch):
    certificate, key = certificate_of_localhost(tmp_path)
    server = start_redis("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    monkeypatch.setattr(online_redis, "_PATIENCE_SECONDS", 0.1)
    for open_rows in (open_row_reader, open_row_writer):
        with pytest.raises(FeatureError, match="certificate verify failed"):
            open_rows(server.uri)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    open_row_writer(server.uri).write([row("ann", 1, 5)], [])

    assert read(server, "ann") == [(1, 5)]
