"""The Markdown summary of a release."""

import pytest

from tidegate.packaging.format.manifest import FileEntry, Lineage, Manifest, Runtime, Signature, Variant, Verdict
from tidegate.reporting.release import render_release_summary


@pytest.fixture
def manifest():
    return Manifest(
        schema_version=1, task="binary-classification",
        name="flights-late",
        signature=Signature(inputs=(), outputs=()),
        classes=("on_time", "late"),
        threshold=0.5,
        variant=Variant(name="int8-dynamic", candidate="trees"),
        runtime=Runtime(),
        metrics={"roc_auc": 0.7014},
        files={"model.onnx": FileEntry(size=1500, sha256="00")},
        verdicts=(
            *(
                Verdict(gate="data", subject=f"column {index}", measure="share", value=0.1, bound=0.2, passed=True)
                for index in range(20)
            ),
            Verdict(gate="parity", subject="trees|x", measure="difference", value=0.5, bound=0.1, passed=False,
                    note="<b>no</b>"),
        ),
        lineage=Lineage(
            run_id="r1", created_at="", event_time="", window_start="2013-01-01", window_end="2013-04-01",
            holdout_start="2013-03-18", data_digest="sha256:d", code_digest="sha256:c", project_digest="sha256:p",
            reason="initial",
        ),
    )  # fmt: skip


def test_registered_release(manifest):
    text = render_release_summary(manifest, version=3)

    assert text.startswith("# flights-late: version 3 registered\n")
    assert "| Selected variant | trees/int8-dynamic |" in text
    assert "| Model size | 1.5 kB |" in text
    assert "8 further checks passed." in text
    assert "**champion**: no verdict was recorded." in text
    assert "No rollout was started." in text


def test_failed_gate_comes_with_its_number_and_no_markup(manifest):
    text = render_release_summary(manifest, stopped_by="parity gate")

    assert text.startswith("# flights-late: release stopped by parity gate\n")
    assert "**parity**: ✕ 1 of 1 check failed" in text
    assert "| trees\\|x | difference | 0.5 | 0.1 | ✕ failed | &lt;b&gt;no&lt;/b&gt; |" in text


@pytest.mark.parametrize(
    ("state", "headline", "outcome"),
    [
        ("promoted", "version 3 promoted", "✓ **promoted**: shown good"),
        ("rolled_back", "version 3 rolled back", "✕ **rolled back**: shown good"),
        ("progressing", "version 3 progressing", "**progressing**: shown good"),
    ],
)
def test_rollout_is_told(manifest, state, headline, outcome):
    looks = [
        {"percent": 5, "verdict": "continue", "reason": "3 of 100 canary requests"},
        {"percent": 5, "verdict": "advance", "reason": "100 requests"},
    ]

    text = render_release_summary(manifest, version=3, rollout={"state": state, "outcome": "shown good", "looks": looks})

    assert text.startswith(f"# flights-late: {headline}\n")
    assert outcome in text
    assert "| 5 % | advance | 100 requests |" in text
    assert "3 of 100" not in text
    assert "2 looks in all." in text


def test_rollout_without_a_look(manifest):
    text = render_release_summary(manifest, version=1, rollout={"state": "promoted", "outcome": ""})

    assert "no reason was recorded" in text
    assert "The judge did not look." in text
