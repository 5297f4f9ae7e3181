import pytest

from tidegate.deployment.local.log_files import last_words, size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("one\ntwo\n\n", "two", id="the last line"),
        pytest.param("error: no such package\nworker died\n", "no such package", id="the error line before the last"),
        pytest.param('{"event": "worker died", "pid": 1}\n', "worker died", id="a structured line"),
        pytest.param('{"event": "stopped", "error": "no memory"}\n', "stopped: no memory", id="a structured error"),
        pytest.param('{"pid": 1}\n', '{"pid": 1}', id="another structured line"),
        pytest.param("[1]\n", "[1]", id="not an object"),
    ],
)
def test_last_words(tmp_path, text, words):
    log = tmp_path / "log"
    log.write_text("error: of an earlier process\n")
    start = size(log)
    with log.open("a") as file:
        file.write(text)

    assert last_words(log, start) == words


def test_a_long_log_is_read_from_its_end(tmp_path):
    log = tmp_path / "log"
    log.write_text("noise\n" * 100_000 + "the end\n")

    assert last_words(log, 0) == "the end"
