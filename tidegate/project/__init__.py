"""The project file: one typed, strict `tidegate.yaml` that describes a model from its features to its monitoring."""

from tidegate.project.cluster import ClusterSection
from tidegate.project.project import Project, ProjectPaths, TargetKind, load_project, project_schema
from tidegate.project.sections import (
    AccuracyGate,
    BenchmarkGate,
    ChampionGate,
    DataGate,
    DriftPolicySection,
    FeaturesSection,
    GatesSection,
    InferenceLogSection,
    LabelSection,
    MonitoringSection,
    ParityGate,
    RolloutSection,
    ServingSection,
    TrainingSection,
)

__all__ = [
    "AccuracyGate",
    "BenchmarkGate",
    "ChampionGate",
    "ClusterSection",
    "DataGate",
    "DriftPolicySection",
    "FeaturesSection",
    "GatesSection",
    "InferenceLogSection",
    "LabelSection",
    "MonitoringSection",
    "ParityGate",
    "Project",
    "ProjectPaths",
    "RolloutSection",
    "ServingSection",
    "TargetKind",
    "TrainingSection",
    "load_project",
    "project_schema",
]
