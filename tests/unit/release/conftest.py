"""A project with its object store in a temporary folder."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tidegate.deployment.inference_service import Revision
from tidegate.project import Project, load_project
from tidegate.rollout.judge import Comparison, Evidence
from tidegate.rollout.record import Look, RolloutRecord
from tidegate.storage import ObjectStore, open_store


@pytest.fixture
def project(tmp_path: Path, project_text: str) -> Project:
    file = tmp_path / "tidegate.yaml"
    file.write_text(project_text)
    (tmp_path / "train.py").write_text("def train(data): ...\n")
    return load_project(file)


@pytest.fixture
def store(project: Project) -> ObjectStore:
    return open_store(project.store_uri)


@pytest.fixture
def make_rollout(project: Project) -> Callable[..., RolloutRecord]:
    """Make the record of a rollout of version 2 that was rolled back, after one look or as the first version without any."""

    def make(*, looked: bool) -> RolloutRecord:
        began = datetime(2013, 4, 1, tzinfo=UTC)
        canary = Revision(name="v2", storage_uri="s3://b/m/2/")
        record = RolloutRecord(
            rollout_id="20130401-v2",
            service=project.name,
            namespace="default",
            version=2,
            reason="test",
            event_time=began,
            logged_at=began,
            rules=project.rollout.model_dump(mode="json"),
            stable=Revision(name="v1", storage_uri="s3://b/m/1/") if looked else None,
            canary=canary,
            champion=1 if looked else None,
        ).moved_to("pending", now=began, reason="test")
        if looked:
            look = Look(
                number=1,
                at=began + timedelta(seconds=30),
                step=0,
                percent=5,
                verdict="rollback",
                reason="too many errors <5xx>",
                evidence=Evidence(
                    stable_requests=900,
                    stable_errors=9,
                    canary_requests=120,
                    canary_errors=6,
                    canary_share=0.12,
                    canary_share_high=0.2,
                    errors=_comparison(stable=0.01, canary=0.05),
                    latency=_comparison(stable=None, canary=0.0125),
                ),
            )
            record = record.with_look(look, record.stable_tally, record.canary_tally)
        return record.moved_to("rolling_back", now=began + timedelta(seconds=31), reason="because").moved_to(
            "rolled_back", now=began + timedelta(seconds=32), reason="because"
        )

    return make


def _comparison(*, stable: float | None, canary: float) -> Comparison:
    return Comparison(
        stable=stable,
        canary=canary,
        canary_low=0.0,
        allowed_high=None,
        proof_high=None,
        proof_allowed=0.0,
        within=False,
    )
