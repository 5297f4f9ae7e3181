"""Freezes what a model reads from the feature store: the feature contract of a feature service."""

from typing import Any

from feast import FeatureService, FeatureView, Field
from feast.feature_view_projection import FeatureViewProjection
from feast.types import Bool, FeastType, Float32, Float64, Int32, Int64, String

from tidegate.errors import FeatureError
from tidegate.packaging.format import manifest
from tidegate.packaging.format.manifest import Datatype, FeatureContract, FeatureField

DEFAULT_TAG = "tidegate.default"
REQUIRED_TAG = "tidegate.required"

DATATYPES: dict[FeastType, Datatype] = {
    Float32: "FP32",
    Float64: "FP32",
    Int32: "INT64",
    Int64: "INT64",
    String: "BYTES",
    Bool: "BOOL",
}
_TRUTH = {"true": True, "false": False}


def freeze_contract(project: str, service: FeatureService, views: dict[str, FeatureView]) -> FeatureContract:
    """Return the contract of `service`, whose `views` are given by name.

    A field's tags say what is done without its value: `tidegate.default` is used instead, and `tidegate.required: "true"`
    makes the row unanswerable.

    Raises:
        FeatureError: The service holds something that cannot be looked up online by name alone (an alias, an on-demand
            view, a view without entity), a datatype no model input has, or a malformed tag.
    """
    return FeatureContract(
        service=service.name,
        project=project,
        views=tuple(_freeze_view(service.name, projection, views) for projection in service.feature_view_projections),
    )


def _freeze_view(service: str, projection: FeatureViewProjection, views: dict[str, FeatureView]) -> manifest.FeatureView:
    where = f"feature service {service}: view {projection.name}"
    view = views.get(projection.name)
    if view is None:
        raise FeatureError(f"{where} is not a plain feature view; only those can be frozen in a contract")
    if projection.name_to_use() != view.name or projection.join_key_map:
        raise FeatureError(f"{where} is aliased as {projection.name_to_use()!r}; use it under its own name and keys")
    keys = tuple(key.name for key in view.entity_columns)
    if not keys or not view.entities or "__dummy_id" in keys:
        raise FeatureError(f"{where} has no entity to be looked up by; give it one")
    return manifest.FeatureView(
        name=view.name,
        join_keys=keys,
        ttl_seconds=int(view.ttl.total_seconds()) if view.ttl else 0,
        features=tuple(_freeze_field(where, field) for field in projection.features),
    )


def _freeze_field(where: str, field: Field) -> FeatureField:
    where = f"{where}, feature {field.name}"
    datatype = DATATYPES.get(field.dtype)
    if datatype is None:
        raise FeatureError(f"{where}: type {field.dtype} is no model input; use {', '.join(map(str, DATATYPES))}")
    required = field.tags.get(REQUIRED_TAG, "false")
    if required not in _TRUTH:
        raise FeatureError(f'{where}: tag {REQUIRED_TAG} is {required!r}; use "true" or "false"')
    default = _parse_default(where, datatype, field.tags.get(DEFAULT_TAG))
    if default is None and datatype in ("INT64", "BOOL"):
        raise FeatureError(f"{where}: {field.dtype} has no missing value; give it the tag {DEFAULT_TAG}, or use Float32")
    return FeatureField(name=field.name, datatype=datatype, default=default, required=_TRUTH[required])


def _parse_default(where: str, datatype: Datatype, text: str | None) -> Any:
    if text is None or datatype == "BYTES":
        return text
    try:
        if datatype == "BOOL":
            return int(_TRUTH[text])
        return int(text) if datatype == "INT64" else float(text)
    except (ValueError, KeyError) as error:
        raise FeatureError(f"{where}: tag {DEFAULT_TAG} is {text!r}, which is not a value of {datatype}") from error
