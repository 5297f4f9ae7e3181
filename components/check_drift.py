"""Component: compare the logged window with the reference, and let the drift policy decide: `retrain` or `keep`."""

from kfp import dsl

from components.step import step


@step
def check_drift(
    project_file: str,
    project_digest: str,
    target: str,
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
    from tidegate.project import load_project
    from tidegate.release.parameters import text_parameter
    from tidegate.release.retraining import run_drift_check

    project = load_project(project_file, digest=project_digest, target=target)
    outcome = run_drift_check(project, now=open_clock(clock).now(), report=Path(report.path), run_id=run_id)
    for name, value in outcome.metrics.items():
        metrics.log_metric(name, value)
    Path(summary.path).write_text(outcome.markdown, encoding="utf-8")
    Path(reason).write_text(text_parameter(outcome.reason), encoding="utf-8")
    Path(retraining).write_text(str(outcome.retraining.number if outcome.retraining else 0), encoding="utf-8")
    return "retrain" if outcome.retrain else "keep"
