"""What is redacted is read strictly: a column that was meant to be empty must not be full for a slip of the pen."""

import hashlib
import hmac

import pytest

from tidegate.errors import ServingError
from tidegate.packaging.format.manifest import Manifest
from tidegate.serving.inference_log.redaction import HASH_KEY_VARIABLE, Redaction, redacted_names

KEY = "a secret of many bytes"


@pytest.mark.parametrize(
    ("entries", "environment", "message"),
    [
        pytest.param(
            ["carier"], {}, "'carier' is nothing that tiny logs; it logs origin, dest, carrier, distance", id="unknown"
        ),
        pytest.param(["carrier:md5"], {}, "'carrier:md5' is nothing that tiny logs", id="unknown treatment"),
        pytest.param(["input_carrier"], {}, "'input_carrier' is nothing that tiny logs", id="a column's name"),
        pytest.param(["carrier", "carrier"], {}, "'carrier' is named twice", id="twice"),
        pytest.param(["carrier", "carrier:hash"], {HASH_KEY_VARIABLE: KEY}, "'carrier' is named twice", id="empty and hashed"),
        pytest.param(["hour:hash"], {HASH_KEY_VARIABLE: KEY}, "'hour' holds numbers, and only text", id="a number to hash"),
        pytest.param(["carrier:hash"], {}, f"in {HASH_KEY_VARIABLE}, which is not set", id="no key"),
        pytest.param(["carrier:hash"], {HASH_KEY_VARIABLE: "short"}, "which holds 5 bytes", id="a short key"),
    ],
)
def test_what_cannot_be_redacted_is_refused(
    tiny_manifest: Manifest, entries: list[str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ServingError) as raised:
        Redaction(entries, tiny_manifest, environment)
    assert message in str(raised.value)
    assert "short" not in str(raised.value)


def test_a_hash_is_keyed_sha_256(tiny_manifest: Manifest) -> None:
    redaction = Redaction(["carrier:hash"], tiny_manifest, {HASH_KEY_VARIABLE: KEY})
    expected = hmac.new(KEY.encode(), "Zürich".encode(), hashlib.sha256).hexdigest()
    assert redaction.hashed(["Zürich", None, "Zürich"]) == [expected, None, expected]
    other = Redaction(["carrier:hash"], tiny_manifest, {HASH_KEY_VARIABLE: KEY + "!"})
    assert other.hashed(["Zürich"]) != [expected]


def test_words_name_what_is_redacted(tiny_manifest: Manifest) -> None:
    redaction = Redaction(["hour", "carrier:hash"], tiny_manifest, {HASH_KEY_VARIABLE: KEY})
    assert redaction.words == "carrier:hash,hour"
    assert redacted_names(redaction.words) == {"carrier", "hour"}
    assert (redaction.omits("hour"), redaction.hashes("hour")) == (True, False)
    assert (redaction.omits("carrier"), redaction.hashes("carrier")) == (False, True)
    assert Redaction([], tiny_manifest, {}).words is None
