"""How many replicas a Standard document asks for while there is a canary, so that neither predictor has too few."""

import math
from dataclasses import dataclass

from tidegate.deployment.inference_service import Service


@dataclass(frozen=True, slots=True)
class Replicas:
    """The `minReplicas` of both predictors; `canary` is 0 if there is none."""

    stable: int
    canary: int


def standard_replicas(service: Service, *, spare_capacity: bool) -> Replicas:
    """Return the replicas that the two predictors are to keep.

    A canary gets what its share of the traffic needs, at least one: without a replica it never becomes ready. As soon as it
    is ready KServe takes as many from the stable, whatever the stable's share (components/predictor.go,
    adjustStableMinReplicasForCanaries; KServe at aaac4e2): of two replicas one is left, for 95 percent of the traffic. So the
    stable asks for so many that what is left carries its share. Until the canary is ready that may be one more than before.

    Args:
        service: The revisions, with the replicas that each keeps, and the canary's percent.
        spare_capacity: There is room for that one more. Without, as with accelerators, it could take the very place that the
            canary waits for; the stable then keeps its number, and has one or a few fewer while there is a canary.
    """
    if service.canary is None:
        return Replicas(stable=service.stable.min_replicas, canary=0)
    kept = max(service.stable.min_replicas, 1)
    canary = max(1, math.ceil(service.canary.min_replicas * service.canary_percent / 100))
    needed = math.ceil(kept * (100 - service.canary_percent) / 100)
    enough = kept if max(kept - canary, 1) >= needed else needed + canary
    if not spare_capacity:
        return Replicas(stable=kept, canary=min(canary, kept))
    return Replicas(stable=max(enough, canary), canary=canary)
