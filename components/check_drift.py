"""Component: compare the logged window with the reference, and let the drift policy decide: `retrain` or `keep`."""

from kfp import dsl

from components.step import step


@step
def check_drift(
    project_file: str,
    project_digest: str,
    clock: str,
    run_id: str,
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    summary: dsl.Output[dsl.Markdown],
    reason: dsl.OutputPath(str),
    retraining: dsl.OutputPath(int),
) -> str:
    from pathlib import Path

    from tidegate.clock import open_clock
    from tidegate.release.retraining import check_and_decide
    from tidegate.monitoring.records import check_key
    from tidegate.project import load_project
    from tidegate.storage import open_store

    project = load_project(project_file, digest=project_digest)
    check, decision = check_and_decide(project, clock=open_clock(clock), run_id=run_id)
    html = check_key(project.name, check.window_end, ".html")
    Path(report.path).write_bytes(open_store(project.store_uri).get(html).data)
    metrics.log_metric("rows", check.rows)
    metrics.log_metric("drifted_share", check.drifted_share)
    metrics.log_metric("prediction_psi", check.prediction.psi)
    Path(summary.path).write_text(f"{check.summary}\n\n**{decision.reason}**\n", encoding="utf-8")
    Path(reason).write_text(decision.reason, encoding="utf-8")
    Path(retraining).write_text(str(decision.retraining or 0), encoding="utf-8")
    return "retrain" if decision.retrain else "keep"
