"""Redis' protocol: whatever is sent in whatever pieces, the replies are the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.features.redis_protocol import RedisDisconnected, RedisRefusal, ReplyParser, packed


def encoded(reply):
    match reply:
        case None:
            return b"$-1\r\n"
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case int():
            return b":%d\r\n" % reply
        case RedisRefusal():
            return b"-%b\r\n" % str(reply).encode()
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join(map(encoded, reply)))
    raise AssertionError(reply)


def shown(reply):
    """Make refusals comparable."""
    if isinstance(reply, list):
        return [shown(part) for part in reply]
    return f"refusal {reply}" if isinstance(reply, RedisRefusal) else reply


texts = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1, max_size=20)
replies = st.recursive(
    st.one_of(st.none(), st.binary(max_size=40), st.just(b"\r\n$3\r\n"), st.integers(), texts.map(RedisRefusal)),
    lambda parts: st.lists(parts, max_size=5),
    max_leaves=12,
)


@given(st.lists(replies, min_size=1, max_size=6), st.data())
def test_replies_arrive_whole_in_whatever_pieces(sent, data):
    stream = b"".join(map(encoded, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    parser = ReplyParser()

    received = [reply for piece in pieces for reply in parser.feed(piece)]

    assert [shown(reply) for reply in received] == [shown(reply) for reply in sent]


def test_a_reply_is_given_as_soon_as_it_is_complete():
    parser = ReplyParser()

    assert parser.feed(b"+OK\r\n*2\r\n$1\r\na\r\n$") == [b"OK"]
    assert parser.feed(b"1\r\nb\r") == []
    assert parser.feed(b"\n*-1\r\n") == [[b"a", b"b"], None]


@pytest.mark.parametrize("received", [b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x01\x00\x02\r\n", b"$abc\r\n", b"\r\n"])
def test_another_protocol_is_a_disconnection(received):
    with pytest.raises(RedisDisconnected, match="it does not speak Redis' protocol"):
        ReplyParser().feed(received)


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        pytest.param(["PING"], b"*1\r\n$4\r\nPING\r\n", id="text"),
        pytest.param(["SELECT", 3], b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n", id="number"),
        pytest.param(["GET", b"\r\n\x00"], b"*2\r\n$3\r\nGET\r\n$3\r\n\r\n\x00\r\n", id="bytes"),
        pytest.param(["AUTH", "zoë", ""], b"*3\r\n$4\r\nAUTH\r\n$4\r\nzo\xc3\xab\r\n$0\r\n\r\n", id="beyond-ascii"),
    ],
)
def test_commands(command, sent):
    assert packed(command) == sent
