"""What Tidegate applied last, kept on the InferenceService itself: so another's edit is noticed, and never overwritten.

Annotation `tidegate.dev/applied` holds the labels, annotations and spec that Tidegate sent. What is live must still contain
them; what KServe's webhook and others add to them is kept. It is the three-way merge of `kubectl apply`, with one
difference: a field that somebody else changed or took away is named, with who did it, instead of being set back.

The annotation changes with every step of a rollout, and KServe copies annotations to the pods; each predictor therefore
masks it (`naming.py`). Its own annotation `tidegate.dev/template` is a digest of what makes its pods, by which a
Deployment or a Knative Revision is told to be made from it and not from one before.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from tidegate.deployment.kserve.connection import FIELD_MANAGER, Document
from tidegate.deployment.kserve.naming import AUTOSCALER_ANNOTATION, MASKED

APPLIED_ANNOTATION = "tidegate.dev/applied"
TEMPLATE_ANNOTATION = "tidegate.dev/template"

_SCALE = ("minReplicas", "maxReplicas", "scaleMetric", "scaleMetricType", "scaleTarget", "autoScaling", "deploymentStrategy")
_ROLE = {"Standard": ("name", *_SCALE), "Knative": ("name", "canaryTrafficPercent")}
_QUANTITY = re.compile(r"(?P<number>[0-9]+(\.[0-9]+)?)(?P<unit>m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGT", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGT", start=1)},
}
_SECRETIVE = ("SECRET", "TOKEN", "PASSWORD", "CREDENTIAL", "KEY")

Path = tuple[str, ...]


def sealed(document: Document, mode: str) -> Document:
    """Return a document as it is sent: each predictor with its digest, and the whole with what it applies.

    Args:
        document: An InferenceService as `documents.py` builds it.
        mode: KServe's deployment mode; in Knative mode the limits of the replicas make a revision too.
    """
    document = copy.deepcopy(document)
    for predictor in predictors(document):
        annotations = predictor.setdefault("annotations", {})
        annotations.pop(TEMPLATE_ANNOTATION, None)
        annotations[APPLIED_ANNOTATION] = MASKED
        annotations[TEMPLATE_ANNOTATION] = _digest(predictor, mode)
    document["metadata"].setdefault("annotations", {}).pop(APPLIED_ANNOTATION, None)
    document["metadata"]["annotations"][APPLIED_ANNOTATION] = canonical(_content(document))
    return document


def predictors(document: Document) -> list[Document]:
    """Return the predictors of a document: the stable's, and the canaries'."""
    spec = document["spec"]
    return [spec["predictor"], *(canary["predictor"] for canary in spec.get("canary") or ())]


def template_of(document: Document) -> str:
    """Return the digest of what makes pods, from a predictor, or from the template of a Deployment's pods."""
    metadata = document.get("metadata", document)
    return str((metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""))


def applied_content(live: Document) -> Document | None:
    """Return what Tidegate applied last, or None if the annotation is not there or not readable."""
    try:
        content = json.loads(live["metadata"]["annotations"][APPLIED_ANNOTATION])
        return {"metadata": dict(content["metadata"]), "spec": dict(content["spec"])}
    except (KeyError, TypeError, ValueError):
        return None


def merged(live: Document, document: Document) -> Document:
    """Return `live` with what `document` says; fields that others added or changed, and `document` does not, are kept."""
    former = applied_content(live) or {"metadata": {}, "spec": {}}
    result = copy.deepcopy(live)
    for part in ("labels", "annotations"):
        result["metadata"][part] = _merge(
            live["metadata"].get(part) or {}, former["metadata"].get(part) or {}, document["metadata"].get(part) or {}
        )
    result["spec"] = _merge(live["spec"], former["spec"], document["spec"])
    return result


def differs(document: Document, other: Document) -> bool:
    """Tell whether two documents differ in more than how a value is written."""
    parts = ("metadata", "spec")
    mine, theirs = ({part: side[part] for part in parts} for side in (document, other))
    return any(_changes(mine, theirs, ())) or any(_changes(theirs, mine, ()))


def edits(live: Document) -> list[str]:
    """Return what others changed of what Tidegate applied, one sentence each: the field, both values, and who did it."""
    former = applied_content(live)
    if former is None:
        return [
            f"annotation {APPLIED_ANNOTATION} is gone or damaged{_by(live, ('metadata', 'annotations', APPLIED_ANNOTATION))}"
        ]
    changes = [
        *_changes(former["metadata"], live["metadata"], ("metadata",)),
        *_changes(former["spec"], live["spec"], ("spec",)),
        *_foreign_splits(former["spec"], live["spec"]),
    ]
    return [_sentence(live, path, ours, theirs) for path, ours, theirs in changes]


def canonical(value: Any) -> str:
    """Return JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _content(document: Document) -> Document:
    metadata = {part: document["metadata"].get(part) or {} for part in ("labels", "annotations")}
    return {"metadata": metadata, "spec": document["spec"]}


def _digest(predictor: Document, mode: str) -> str:
    template = {field: value for field, value in predictor.items() if field not in _ROLE[mode]}
    if mode == "Standard":  # a canary may be scaled in another way than the stable it becomes
        template["annotations"] = {key: value for key, value in template["annotations"].items() if key != AUTOSCALER_ANNOTATION}
    return hashlib.sha256(canonical(template).encode()).hexdigest()[:12]


def _merge(live: Any, former: Any, wanted: Any) -> Any:
    """Take from `wanted` what it changes of `former`, and the rest from `live`."""
    if _same(former, wanted) and live is not None:
        return live
    if isinstance(wanted, dict) and isinstance(live, dict):
        former = former if isinstance(former, dict) else {}
        kept = {field: value for field, value in live.items() if field in wanted or field not in former}
        return {**kept, **{field: _merge(live.get(field), former.get(field), value) for field, value in wanted.items()}}
    return live if live is not None and not any(_changes(wanted, live, ())) else wanted


def _changes(ours: Any, theirs: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Yield every field in which `theirs` does not contain `ours`; an empty value and an absent one are the same."""
    if isinstance(ours, dict) and isinstance(theirs, dict | None):
        for field, value in ours.items():
            yield from _changes(value, (theirs or {}).get(field), (*path, field))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (mine, their) in enumerate(zip(ours, theirs, strict=True)):
            yield from _changes(mine, their, (*path, str(index)))
    elif not _same(ours, theirs):
        yield path, ours, theirs


def _foreign_splits(former: Document, live: Document) -> Iterator[tuple[Path, Any, Any]]:
    """Yield what would move traffic and is not Tidegate's."""
    for path in (("canary",), ("predictor", "canaryTrafficPercent")):
        ours, theirs = _at(former, path), _at(live, path)
        if ours in (None, []) and theirs not in (None, []):
            yield ("spec", *path), ours, theirs


def _same(ours: Any, theirs: Any) -> bool:
    if ours in (None, "", [], {}) and theirs in (None, "", [], {}):
        return True
    if isinstance(ours, bool) or isinstance(theirs, bool) or type(ours) is type(theirs) is not str:
        return bool(ours == theirs)
    return bool(ours == theirs) or (
        isinstance(ours, str | int) and isinstance(theirs, str | int) and _equal_amounts(ours, theirs)
    )


def _equal_amounts(ours: str | int, theirs: str | int) -> bool:
    """Tell whether two quantities are equal: KServe's webhook rewrites 1000m as 1, and 1024Mi as 1Gi."""
    mine, their = _amount(str(ours)), _amount(str(theirs))
    return mine is not None and mine == their


def _amount(text: str) -> Decimal | None:
    match = _QUANTITY.fullmatch(text)
    return None if match is None else Decimal(match["number"]) * _UNITS[match["unit"] or ""]


def _at(document: Any, path: Path) -> Any:
    for field in path:
        document = document.get(field) if isinstance(document, dict) else None
    return document


def _sentence(live: Document, path: Path, ours: Any, theirs: Any) -> str:
    field = ".".join(path)
    if ours in (None, []):
        return f"{field} is {_shown(path, theirs)}, which Tidegate did not set{_by(live, path)}"
    return f"{field} is {_shown(path, theirs)}, but Tidegate set {_shown(path, ours)}{_by(live, path)}"


def _shown(path: Path, value: Any) -> str:
    if value in (None, "", [], {}):
        return "gone"
    text = canonical(value)
    if "env" in path or any(word in text.upper() for word in _SECRETIVE):
        return "another value"
    return text if len(text) <= 120 else f"{text[:117]}..."


def _by(live: Document, path: Path) -> str:
    """Name who owns a field, or, if nobody does any more, who wrote last beside Tidegate."""
    others = [
        entry
        for entry in live["metadata"].get("managedFields") or ()
        if entry.get("manager") != FIELD_MANAGER and not entry.get("subresource")
    ]
    others.sort(key=lambda entry: str(entry.get("time", "")))
    owners = [entry for entry in others if _owns(entry.get("fieldsV1") or {}, path)] or [
        entry for entry in others if "f:spec" in (entry.get("fieldsV1") or {})
    ]
    if not owners:
        return ""
    return f" (changed by {owners[-1].get('manager', 'somebody')} at {owners[-1].get('time', 'an unknown time')})"


def _owns(fields: Document, path: Path) -> bool:
    for field in path:
        inner = fields.get(f"f:{field}")
        if inner is None:
            return False
        if not inner:
            return True
        fields = inner
    return True
