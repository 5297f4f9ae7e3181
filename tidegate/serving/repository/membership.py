"""A worker's part in loading versions: it follows the plan of its server, and leads the others when it is asked to."""

from tidegate.serving.model.endpoint import Endpoint
from tidegate.serving.repository.coordinator import Coordinator
from tidegate.serving.repository.follower import Follower, OpenModel
from tidegate.serving.repository.packages import PackageSource
from tidegate.serving.repository.plan import PlanFolder, Version


class Membership:
    """Joins a worker to the others of its server."""

    def __init__(
        self,
        endpoint: Endpoint,
        source: PackageSource,
        folder: PlanFolder,
        *,
        worker: int,
        workers: int,
        open_model: OpenModel,
        serving: Version | None,
        patience: float,
    ) -> None:
        """Prepare; `serving` is what the endpoint answers with, the rest as `Coordinator` and `Follower` say."""
        self._endpoint = endpoint
        self._coordinator = Coordinator(endpoint.name, source, folder, workers)
        self._follower = Follower(endpoint, folder, worker, open_model, serving=serving, patience=patience)

    def start(self) -> None:
        """Begin, on the loop: from now on callers may load and unload versions."""
        self._follower.start()
        self._endpoint.repository = self._coordinator

    async def stop(self, seconds: float) -> None:
        """Load nothing more, and let go of what does not answer; a store that never answers is given up after so long."""
        await self._coordinator.stop(seconds)
        await self._follower.stop(seconds)
