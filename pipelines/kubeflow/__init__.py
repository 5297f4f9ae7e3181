"""The pipelines on a Kubeflow: submitted, followed, scheduled, through the API of Kubeflow Pipelines."""
