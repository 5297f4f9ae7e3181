"""The rules of Kubernetes about names, labels and pods that a document would break only later, where nobody looks.

A name too long for the Deployment's labels, a selector with a space, or a variable given twice pass KServe's webhook; the
controller then fails to create what it should, and says so in an event or a condition.
"""

import re
from typing import Any

from tidegate.deployment.kserve.naming import LONGEST_NAME, predictor_service
from tidegate.errors import DeploymentError

Document = dict[str, Any]

_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_VARIABLE = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")


def check_names(mode: str, document: Document) -> None:
    """Check that every name which KServe makes from the service's, the predictors' and the namespace's is short enough.

    In Standard mode: the pods' label `app` is `isvc.<service>-<predictor>-predictor` (pkg/constants, GetRawServiceLabel),
    and the first part of the predictor's host is `<service>-<predictor>-predictor-<namespace>` by KServe's default
    domainTemplate (raw/raw_kube_reconciler.go, createRawURL). In Knative mode: a tag makes the host
    `latest-<service>-predictor`. Hosts are checked as DNS labels, of at most 63 characters (ingress/domain.go).
    """
    metadata, spec = document["metadata"], document["spec"]
    service, namespace = metadata["name"], metadata.get("namespace", "default")
    if mode == "Knative":
        _check_length(f"latest-{predictor_service(service, None)}", "host of the latest revision")
        _check_length(f"{service}-{namespace}", "host")
        return
    for predictor in [spec["predictor"], *(canary["predictor"] for canary in spec.get("canary") or [])]:
        name = predictor_service(service, predictor.get("name"))
        _check_length(f"{name}-{namespace}", "predictor's host")
        _check_length(f"isvc.{name}", "pods' label app")


def check_labels(where: str, labels: dict[str, str]) -> None:
    """Check labels, or a node selector, which Kubernetes holds to the same rules; raises DeploymentError."""
    for key, value in labels.items():
        prefix, slash, name = key.rpartition("/")
        if not _LABEL_NAME.fullmatch(name) or len(name) > LONGEST_NAME or (slash and not _is_prefix(prefix)):
            raise DeploymentError(f"{where}: {key!r} is not a label's name, such as 'nvidia.com/gpu.product'")
        if value and (not _LABEL_NAME.fullmatch(value) or len(value) > LONGEST_NAME):
            raise DeploymentError(
                f"{where}.{key}: {value!r} is not a label's value: at most {LONGEST_NAME} letters, digits and -_. between them"
            )


def check_pod(where: str, predictor: Document) -> None:
    """Check what a predictor says about its pods; raises DeploymentError."""
    check_labels(f"{where}.labels", predictor.get("labels") or {})
    check_labels(f"{where}.nodeSelector", predictor.get("nodeSelector") or {})
    for toleration in predictor.get("tolerations") or []:
        _check_toleration(where, toleration)
    _check_environment(where, predictor["model"].get("env") or [])
    _check_resources(where, predictor["model"].get("resources") or {})


def _is_prefix(prefix: str) -> bool:
    return bool(_LABEL_PREFIX.fullmatch(prefix)) and len(prefix) <= 253


def _check_length(name: str, what: str) -> None:
    if len(name) > LONGEST_NAME:
        raise DeploymentError(
            f"the {what}, {name!r}, would have {len(name)} characters, at most {LONGEST_NAME} are allowed; "
            "shorten the project's name or the namespace's"
        )


def _check_toleration(where: str, toleration: Document) -> None:
    check_labels(f"{where}.tolerations", {toleration["key"]: toleration.get("value") or ""})
    if toleration.get("operator") == "Exists" and toleration.get("value"):
        raise DeploymentError(
            f"{where}.tolerations: {toleration['key']} has operator Exists and a value, {toleration['value']!r}; "
            "use operator Equal, or remove the value"
        )


def _check_environment(where: str, variables: list[Document]) -> None:
    names = [variable["name"] for variable in variables]
    for name in names:
        if not _VARIABLE.fullmatch(name):
            raise DeploymentError(f"{where}.model.env: {name!r} is not a variable's name")
        if names.count(name) > 1:
            raise DeploymentError(f"{where}.model.env: {name} is given {names.count(name)} times; the last would win silently")


def _check_resources(where: str, resources: Document) -> None:
    for name, amount in (resources.get("limits") or {}).items():
        if "/" in name and not str(amount).isdigit():
            raise DeploymentError(f"{where}.model.resources: {name} {amount!r} must be a whole number")
        if "/" in name and (resources.get("requests") or {}).get(name, amount) != amount:
            raise DeploymentError(f"{where}.model.resources: {name} must be the same in requests and limits")
