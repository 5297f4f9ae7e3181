"""The project file: one typed, strict `tidegate.yaml` that describes a model from its features to its monitoring."""

from tidegate.project.cluster import ClusterSection
from tidegate.project.gates import (
    AccuracyGate,
    BenchmarkGate,
    ChampionGate,
    DataGate,
    GatesSection,
    OutputTolerances,
    ParityGate,
    PricesSection,
    ProjectGates,
    Tolerance,
)
from tidegate.project.project import Project, ProjectPaths, TargetKind, load_gates, load_project, project_schema
from tidegate.project.sections import (
    DriftPolicySection,
    FeaturesSection,
    LabelSection,
    MonitoringSection,
    RolloutSection,
    TrainingSection,
)
from tidegate.project.serving import (
    BatchingSection,
    InferenceLogSection,
    InputRules,
    ServingSection,
    ValidationSection,
)

__all__ = [
    "AccuracyGate",
    "BatchingSection",
    "BenchmarkGate",
    "ChampionGate",
    "ClusterSection",
    "DataGate",
    "DriftPolicySection",
    "FeaturesSection",
    "GatesSection",
    "InferenceLogSection",
    "InputRules",
    "LabelSection",
    "MonitoringSection",
    "OutputTolerances",
    "ParityGate",
    "PricesSection",
    "Project",
    "ProjectGates",
    "ProjectPaths",
    "RolloutSection",
    "ServingSection",
    "TargetKind",
    "Tolerance",
    "TrainingSection",
    "ValidationSection",
    "load_gates",
    "load_project",
    "project_schema",
]
