"""Cron expressions: what Kubeflow would read another way, or refuse late, is put right or refused here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.kubeflow.cron import six_fields
from tidegate.errors import PipelineError


@pytest.mark.parametrize(
    ("given_expression", "kept"),
    [
        pytest.param("0 6 * * *", "0 0 6 * * *", id="five-fields-get-their-second"),
        pytest.param("*/15 * * * *", "0 */15 * * * *", id="five-fields-with-a-step"),
        pytest.param("0 0 6 * * *", "0 0 6 * * *", id="six-fields-stay"),
        pytest.param("  0  6 * *\tMON-FRI ", "0 0 6 * * MON-FRI", id="spaces-and-names"),
        pytest.param("0 6,18 1-7 jan,Jul ?", "0 0 6,18 1-7 jan,Jul ?", id="lists-and-question-mark"),
        pytest.param("5/10 * * * *", "0 5/10 * * * *", id="step-from-a-number"),
        pytest.param("@daily", "0 0 0 * * *", id="descriptor"),
    ],
)
def test_expression_is_kept_with_six_fields(given_expression, kept):
    assert six_fields(given_expression) == kept
    assert six_fields(kept) == kept


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        pytest.param("60 6 * * *", "minute '60': must lie in 0 to 59", id="minute"),
        pytest.param("0 6 * * 7", "day of week '7': must lie in 0 to 6", id="sunday-is-0"),
        pytest.param("0 6 0 * *", "day of month '0': must lie in 1 to 31", id="day-0"),
        pytest.param("0 6 * foo *", "month 'foo': must be a number of 1 to 12", id="month-name"),
        pytest.param("0 6 * * fri-mon", "day of week 'fri-mon': its range ends before it begins", id="backwards"),
        pytest.param("*/0 * * * *", "minute '*/0': its step must be a number above 0", id="step-0"),
        pytest.param("0 6,, * * *", "hour '': must be a number", id="empty-member"),
        pytest.param("0 6 * *", "has 4 fields; give five", id="four-fields"),
        pytest.param("0 0 6 * * * 2026", "has 7 fields", id="year"),
        pytest.param("", "has 0 fields", id="empty"),
        pytest.param("@reboot", "must be one of @yearly", id="unknown-descriptor"),
        pytest.param("TZ=Europe/Paris 0 0 6 * * *", "has 7 fields", id="time-zone"),
        pytest.param("\u0665 6 * * *", "minute '\u0665': must be a number", id="other-digits"),
    ],
)
def test_what_kubeflow_cannot_parse_is_refused_by_field(expression, message):
    with pytest.raises(PipelineError, match=r"^cron ") as refused:
        six_fields(expression)

    assert message in str(refused.value)


@given(st.text(alphabet="0123456789*/-,? @abcdefghijklmnopqrstuvwxyz\u0665²\n", max_size=30))
def test_any_text_is_six_fields_or_a_refusal(text):
    try:
        kept = six_fields(text)
    except PipelineError:
        return
    assert len(kept.split(" ")) == 6
    assert six_fields(kept) == kept
