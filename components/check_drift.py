"""Component: compare the logged window with the reference, and let the drift policy decide: `retrain` or `keep`."""

from kfp import dsl

from components.step import step


@step
def check_drift(
    project_file: str,
    project_digest: str,
    clock: str,
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    decision: dsl.Output[dsl.Markdown],
    reason: dsl.OutputPath(str),
) -> str:
    from pathlib import Path

    from tidegate.clock import open_clock
    from tidegate.monitoring.decision import check_and_decide
    from tidegate.project import load_project

    project = load_project(project_file, digest=project_digest)
    outcome = check_and_decide(project, now=open_clock(clock).now(), report=Path(report.path))
    for name, value in outcome.metrics.items():
        metrics.log_metric(name, value)
    Path(decision.path).write_text(outcome.markdown, encoding="utf-8")
    Path(reason).write_text(outcome.reason, encoding="utf-8")
    return "retrain" if outcome.retrain else "keep"
