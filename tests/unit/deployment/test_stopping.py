import pytest

from tidegate.deployment.stopping import stopping_seconds


@pytest.mark.parametrize(
    ("env", "seconds"),
    [
        pytest.param({}, 25, id="as by default"),
        pytest.param({"TIDEGATE_WORKERS": "4"}, 25, id="other settings do not matter"),
        pytest.param({"TIDEGATE_DRAIN_SECONDS": "0"}, 15, id="what is in flight is cut off"),
        pytest.param({"TIDEGATE_DRAIN_SECONDS": "60.2"}, 76, id="whole seconds"),
        pytest.param({"TIDEGATE_DRAIN_DELAY_SECONDS": "7"}, 32, id="proxies are waited for"),
    ],
)
def test_it_is_what_a_server_may_take(env: dict[str, str], seconds: int) -> None:
    assert stopping_seconds(env) == seconds
