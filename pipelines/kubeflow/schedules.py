"""Schedules in Kubeflow Pipelines: one recurring run for each pipeline of a project, upserted by name.

Kubeflow cannot change a recurring run, so a schedule is replaced: a new one is created disabled, the old one disabled, the new
one enabled, the old one deleted. At no moment are two enabled. Whatever breaks off in between, the same command finishes it:
what is wanted is in the description of each recurring run (`generation`, whether it is to be enabled, a digest of all else),
and the newest generation holds. A schedule that stands alone is paused if it is disabled, and stays so when it is replaced.

A recurring run is deleted only when none of its runs goes on: before KFP 2.16 a deletion takes them with it
(kubeflow/pipelines#7421), and a new one would overlap with them, since `max_concurrency` counts each recurring run's own.
"""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from pipelines.ir import images, specification
from pipelines.kubeflow.api_errors import ApiRefusal
from pipelines.kubeflow.client import API, where
from pipelines.kubeflow.submission import Submitter, Uploaded
from tidegate.errors import PipelineError

_NOTE = re.compile(
    r"tidegate: generation=(?P<generation>\d+) enabled=(?P<enabled>yes|no) before=(?P<before>yes|no) "
    r"spec=(?P<spec>[0-9a-f]{32})"
)
_GOING_ON = frozenset({"", "RUNTIME_STATE_UNSPECIFIED", "PENDING", "RUNNING", "CANCELING", "PAUSED"})
_SETTLING_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a schedule is to be."""

    name: str
    cron: str
    catch_up: bool
    uploaded: Uploaded
    parameters: dict[str, Any]
    experiment_id: str
    service_account: str

    @property
    def digest(self) -> str:
        """A digest of everything that makes two schedules differ, but for whether they are enabled."""
        text = json.dumps(self._specification(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def body(self, *, generation: int, enabled: bool, to_be_enabled: bool, was_enabled: bool) -> dict[str, Any]:
        """Return the recurring run to create, with a note of what it is to become, and of what it replaces.

        The note is short, since a description holds 255 characters (kubeflow/pipelines 2.17, client_manager.go).
        """
        note = (
            f"Kept by `python -m pipelines schedule`. tidegate: generation={generation} enabled={_yes(to_be_enabled)} "
            f"before={_yes(was_enabled)} spec={self.digest}"
        )
        return {
            **self._specification(),
            "description": note,
            "mode": "ENABLE" if enabled else "DISABLE",
        }

    def _specification(self) -> dict[str, Any]:
        return {
            "display_name": self.name,
            "experiment_id": self.experiment_id,
            "pipeline_version_reference": self.uploaded.reference,
            "runtime_config": {"parameters": self.parameters},
            "service_account": self.service_account,
            "max_concurrency": "1",
            "no_catchup": not self.catch_up,
            "trigger": {"cron_schedule": {"cron": self.cron}},
        }


@dataclass(frozen=True, slots=True)
class Kept:
    """One recurring run of ours as it is in Kubeflow Pipelines."""

    recurring_run_id: str
    name: str
    enabled: bool
    cron: str
    catch_up: bool
    experiment_id: str
    pipeline_id: str
    version_id: str
    generation: int
    to_be_enabled: bool
    replaced_enabled: bool
    spec: str

    @property
    def order(self) -> tuple[int, str]:
        """Newest last; the id decides between two that were made at the same time."""
        return self.generation, self.recurring_run_id


@dataclass(frozen=True, slots=True)
class ScheduleChange:
    """What a command made of a schedule."""

    name: str
    change: str
    kept: Kept | None


@dataclass(frozen=True, slots=True)
class ScheduledRun:
    """One run that a schedule started."""

    run_id: str
    scheduled_at: str
    state: str
    version_id: str
    link: str


class Schedules:
    """The schedules in one namespace."""

    def __init__(self, submitter: Submitter) -> None:
        """Keep schedules where `submitter` uploads pipelines."""
        self._submitter = submitter
        self._api = submitter.api

    def put(self, wanted: Wanted, *, enabled: bool | None = None) -> ScheduleChange:
        """Bring about exactly one schedule of that name, as wanted; an equal one is left alone.

        Args:
            wanted: What it is to be.
            enabled: Whether it is to start runs; None leaves a paused one paused.

        Raises:
            PipelineError: A run of the schedule that would be replaced goes on; a recurring run of that name is not ours; or
                Kubeflow Pipelines refused or could not be reached, after which the same command finishes what was begun.
        """
        before = self.find(wanted.name)
        to_be_enabled = _is_enabled(before) if enabled is None else enabled
        replaces = not before or before[-1].spec != wanted.digest
        if replaces:
            self._create(wanted, before, to_be_enabled)
        try:
            kept, acted = self._settle(wanted.name, to_be_enabled)
        except _RunGoesOn as overlap:
            self._back_out(wanted.name, overlap.schedule, _was_enabled(before))
            raise PipelineError(
                f"schedule {wanted.name} stays as it was: its run {overlap.run_id} goes on, and the new schedule's runs would "
                f"overlap with it; wait for it, or end it by: python -m pipelines terminate {overlap.run_id}"
            ) from None
        if kept.spec != wanted.digest:
            raise PipelineError(
                f"schedule {wanted.name}: somebody else replaced it at the same time; look at it, and try again"
            )
        if replaces:
            return ScheduleChange(wanted.name, "replaced" if before else "created", kept)
        return ScheduleChange(wanted.name, "repaired" if len(before) > 1 else "changed" if acted else "unchanged", kept)

    def switch(self, name: str, *, enabled: bool) -> ScheduleChange:
        """Pause or resume a schedule; raises PipelineError if there is none, or Kubeflow Pipelines refused."""
        self._existing(name)
        try:
            kept, acted = self._settle(name, enabled)
        except _RunGoesOn as overlap:  # a replacement broke off, and what it was to replace still runs: that one stays
            kept = self._back_out(name, overlap.schedule, enabled)
            acted = True
        done = "resumed" if enabled else "paused"
        return ScheduleChange(name, done if acted else "unchanged", kept)

    def remove(self, name: str) -> ScheduleChange:
        """End a schedule; its runs stay. Raises PipelineError if there is none, or while a run of it goes on."""
        found = self._existing(name)
        for kept in found:
            self._turn(kept, enabled=False)
        going_on = ""
        for kept in found:
            run_id = self._run_going_on(kept)
            if not run_id:
                self._delete(kept)
            going_on = going_on or run_id
        if going_on:
            raise PipelineError(
                f"schedule {name} is paused, and not yet removed: its run {going_on} goes on; "
                f"wait for it, or end it by: python -m pipelines terminate {going_on}; then remove the schedule again"
            )
        return ScheduleChange(name, "removed", None)

    def find(self, name: str) -> list[Kept]:
        """Return every recurring run of that name, newest last; more than one only when a command broke off.

        Raises:
            PipelineError: One of them was not made by Tidegate.
        """
        listed = self._api.pages(
            f"{API}/recurringruns", "recurringRuns", filter=where("display_name", name), **self._submitter.scope()
        )
        return sorted((kept_of(item) for item in listed if item.get("display_name") == name), key=lambda kept: kept.order)

    def runs_what(self, kept: Kept) -> tuple[str, str]:
        """Return the name of the pipeline version that a schedule runs, and its image."""
        try:
            version = self._api.get(f"{API}/pipelines/{kept.pipeline_id}/versions/{kept.version_id}")
        except ApiRefusal as refusal:
            if refusal.status != 404:
                raise
            return "deleted", "unknown"
        return version.get("display_name", ""), ", ".join(images(specification(version.get("pipeline_spec"))))

    def history(self, name: str, *, limit: int) -> list[ScheduledRun]:
        """Return the last runs that the schedule started, also those of what it replaced in its experiment; newest first."""
        newest = self._existing(name)[-1]
        runs = self._api.pages(f"{API}/runs", "runs", experiment_id=newest.experiment_id, sort_by="created_at desc")
        ours = (
            run
            for run in runs
            if run.get("recurring_run_id")
            and (run.get("pipeline_version_reference") or {}).get("pipeline_id") == newest.pipeline_id
        )
        return [self._scheduled_run(run) for _, run in zip(range(limit), ours, strict=False)]

    def _create(self, wanted: Wanted, before: list[Kept], to_be_enabled: bool) -> None:
        generation = before[-1].generation + 1 if before else 1
        # The first one is created as it is to be: nothing has to be disabled before, and no crash can come in between.
        body = wanted.body(
            generation=generation,
            enabled=to_be_enabled and not before,
            to_be_enabled=to_be_enabled,
            was_enabled=_was_enabled(before),
        )

        def created() -> dict[str, Any] | None:
            same = (kept for kept in self.find(wanted.name) if (kept.generation, kept.spec) == (generation, wanted.digest))
            return next(({"recurring_run_id": kept.recurring_run_id} for kept in same), None)

        self._api.ensure(created, lambda: self._api.create(f"{API}/recurringruns", body))

    def _settle(self, name: str, enabled: bool) -> tuple[Kept, bool]:
        """Leave one recurring run of that name, the newest; return it, and whether anything had to be done."""
        for turn in range(_SETTLING_ROUNDS):
            *others, newest = self._existing(name)
            if not others and newest.enabled == enabled:
                return newest, turn > 0
            for other in others:
                self._turn(other, enabled=False)
            for other in others:
                if run_id := self._run_going_on(other):
                    raise _RunGoesOn(other, run_id)
            self._turn(newest, enabled=enabled)
            for other in others:
                self._delete(other)
        raise PipelineError(f"schedule {name}: somebody else changes it at the same time; look at it, and try again")

    def _back_out(self, name: str, stays: Kept, enabled: bool) -> Kept:
        """Leave the one whose run goes on, and delete the rest, none of which has started a run yet."""
        rest = [kept for kept in self.find(name) if kept.recurring_run_id != stays.recurring_run_id]
        for kept in rest:
            self._turn(kept, enabled=False)
        if enabled:
            self._act(stays, "enable")
        for kept in rest:
            self._delete(kept)
        return replace(stays, enabled=enabled)

    def _turn(self, kept: Kept, *, enabled: bool) -> None:
        if kept.enabled != enabled:
            self._act(kept, "enable" if enabled else "disable")

    def _act(self, kept: Kept, action: str) -> None:
        self._api.act(f"{API}/recurringruns/{kept.recurring_run_id}:{action}")

    def _delete(self, kept: Kept) -> None:
        self._api.delete(f"{API}/recurringruns/{kept.recurring_run_id}", propagation_policy="ORPHAN")

    def _run_going_on(self, kept: Kept) -> str:
        runs = self._api.pages(
            f"{API}/runs",
            "runs",
            experiment_id=kept.experiment_id,
            filter=where("recurring_run_id", kept.recurring_run_id),
            sort_by="created_at desc",
        )
        ours = (run for run in runs if run.get("recurring_run_id") == kept.recurring_run_id)
        return next((run["run_id"] for run in ours if run.get("state", "") in _GOING_ON), "")

    def _existing(self, name: str) -> list[Kept]:
        found = self.find(name)
        if not found:
            raise PipelineError(f"there is no schedule {name}; make one by: python -m pipelines schedule NAME --cron …")
        return found

    def _scheduled_run(self, run: dict[str, Any]) -> ScheduledRun:
        return ScheduledRun(
            run_id=run["run_id"],
            scheduled_at=run.get("scheduled_at") or run.get("created_at", ""),
            state=run.get("state", "").lower(),
            version_id=run["pipeline_version_reference"].get("pipeline_version_id", ""),
            link=self._submitter.run_page(run["run_id"]),
        )


class _RunGoesOn(Exception):
    def __init__(self, schedule: Kept, run_id: str) -> None:
        super().__init__(run_id)
        self.schedule = schedule
        self.run_id = run_id


def kept_of(item: dict[str, Any]) -> Kept:
    """Read a recurring run of ours as the API tells it; raises PipelineError if it is not ours."""
    name = item.get("display_name", "")
    note = _NOTE.search(item.get("description", ""))
    if note is None:
        raise PipelineError(
            f"recurring run {name} ({item.get('recurring_run_id')}) was not made by `python -m pipelines schedule`; "
            "delete it, or give it another name"
        )
    reference = item.get("pipeline_version_reference") or {}
    return Kept(
        recurring_run_id=item["recurring_run_id"],
        name=name,
        enabled=item.get("status") == "ENABLED",
        cron=((item.get("trigger") or {}).get("cron_schedule") or {}).get("cron", ""),
        catch_up=not item.get("no_catchup", False),
        experiment_id=item.get("experiment_id", ""),
        pipeline_id=reference.get("pipeline_id", ""),
        version_id=reference.get("pipeline_version_id", ""),
        generation=int(note["generation"]),
        to_be_enabled=note["enabled"] == "yes",
        replaced_enabled=note["before"] == "yes",
        spec=note["spec"],
    )


def _is_enabled(found: list[Kept]) -> bool:
    """Say whether a schedule is to start runs; while one replaces another, that is what the new one is to become."""
    return not found or any(kept.enabled for kept in found) or (len(found) > 1 and found[-1].to_be_enabled)


def _was_enabled(found: list[Kept]) -> bool:
    """Say whether a schedule starts runs; while one replaces another, whether the old one did."""
    return not found or any(kept.enabled for kept in found) or (len(found) > 1 and found[-1].replaced_enabled)


def _yes(whether: bool) -> str:
    return "yes" if whether else "no"
