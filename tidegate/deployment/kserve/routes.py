"""The HTTPRoutes of Standard mode: what share of the traffic each Service gets, and whether the gateway took it up."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from tidegate.deployment.kserve.connection import HTTP_ROUTES, Connection, Document, NoSuchApi
from tidegate.deployment.kserve.naming import predictor_service

_NEEDED = "a canary in Standard mode needs Gateway API, with enableGatewayApi: true in KServe's ingress configuration"
_OTHERWISE = "or set rollout.strategy to replace"
_NO_API = f"the cluster has no HTTPRoute API; {_NEEDED}; {_OTHERWISE}"
_BEFORE_0_21 = f"this KServe splits no traffic in Standard mode, which its releases do from 0.21 on; upgrade it, {_OTHERWISE}"
_NO_ROUTE = f"KServe made no HTTPRoute for it; {_NEEDED}, and a service that is not cluster-local; {_OTHERWISE}"


@dataclass(frozen=True, slots=True)
class Routes:
    """Where requests go.

    Attributes:
        percents: Percent of the traffic by the name of the Kubernetes Service.
        in_force: The gateway has accepted it.
        reason: Why not.
        unsplittable: Why traffic can never be split here, if it cannot.
    """

    percents: dict[str, int]
    in_force: bool
    reason: str = ""
    unsplittable: str = ""


def observe_routes(connection: Connection, live: Document, services: list[str]) -> Routes:
    """Look at the two routes of an InferenceService: its own host's, and its predictor's.

    Both names stay the same whichever predictor is the stable (createRawPredictorHTTPRoute, createRawTopLevelHTTPRoute); in
    KServe v0.20.0, which knows `spec.canary` but does not split routes by it, the second still followed the predictor's name.
    Without any route, the InferenceService's condition IngressReady tells whether the one Service can be reached.

    Args:
        connection: To the cluster.
        live: The InferenceService.
        services: The names of its predictors' Services; a route to none of them, such as a transformer's, is left out.
    """
    name, namespace = live["metadata"]["name"], live["metadata"]["namespace"]
    unsplittable = ""
    try:
        found = {route: connection.read(HTTP_ROUTES, namespace, route) for route in (name, predictor_service(name, None))}
        former = predictor_service(name, live["spec"]["predictor"].get("name"))
        if former not in found and found[name] is not None and found[predictor_service(name, None)] is None:
            found = {name: found[name], former: connection.read(HTTP_ROUTES, namespace, former)}
            unsplittable = _BEFORE_0_21 if found[former] is not None else ""
    except NoSuchApi:
        return _without_routes(live, _NO_API)
    routes = [route for route in found.values() if route is not None]
    if not routes:
        return _without_routes(live, _NO_ROUTE if _condition(live, "IngressReady") == "True" else "")
    missing = next((name for name, route in found.items() if route is None), "")
    splits = [split for route in routes for split in _splits(route) if split.keys() & set(services)]
    percents = splits[0] if splits else {}
    reason = f"KServe has not made HTTPRoute {missing} yet" if missing else ""
    reason = reason or next(filter(None, (_unaccepted(route) for route in routes)), "")
    if not reason and any(split != percents for split in splits):
        reason = "its HTTPRoutes do not agree yet"
    return Routes(percents=percents, in_force=bool(percents) and not reason, reason=reason, unsplittable=unsplittable)


def _without_routes(live: Document, unsplittable: str) -> Routes:
    stable = predictor_service(live["metadata"]["name"], live["spec"]["predictor"].get("name"))
    ready = _condition(live, "IngressReady") == "True"
    reason = "" if ready else f"its ingress is not ready: {_message(live, 'IngressReady')}"
    return Routes(percents={stable: 100} if ready else {}, in_force=ready, reason=reason, unsplittable=unsplittable)


def _splits(route: Document) -> Iterator[dict[str, int]]:
    for rule in route["spec"].get("rules") or ():
        weights: dict[str, int] = defaultdict(int)
        for backend in rule.get("backendRefs") or ():
            weights[backend["name"]] += backend.get("weight", 1)
        total = sum(weights.values())
        if total:
            yield {service: round(100 * weight / total) for service, weight in weights.items() if weight}


def _unaccepted(route: Document) -> str:
    """Return why the gateway has not taken a route up as it is now, or ""."""
    name, generation = route["metadata"]["name"], route["metadata"].get("generation", 0)
    parents = (route.get("status") or {}).get("parents") or []
    if not parents:
        return f"no gateway has taken up HTTPRoute {name}"
    for parent in parents:
        conditions = {condition["type"]: condition for condition in parent.get("conditions") or ()}
        for kind in ("Accepted", "ResolvedRefs"):
            condition = conditions.get(kind)
            if condition is None or condition.get("observedGeneration", generation) < generation:
                return f"the gateway has not taken up HTTPRoute {name} yet"
            if condition["status"] != "True":
                return f"the gateway refuses HTTPRoute {name}: {condition.get('reason')}: {condition.get('message', '')}"
    return ""


def _condition(live: Document, kind: str) -> str:
    return str(_found(live, kind).get("status", ""))


def _message(live: Document, kind: str) -> str:
    condition = _found(live, kind)
    return str(condition.get("message") or condition.get("reason") or "KServe has not said why")


def _found(live: Document, kind: str) -> Document:
    conditions = (live.get("status") or {}).get("conditions") or ()
    return next((dict(condition) for condition in conditions if condition.get("type") == kind), {})
