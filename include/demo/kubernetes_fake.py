"""A strict fake of a Kubernetes API server for two kinds of routes, since no real one can be had without a cluster.

It keeps resourceVersion and generation, answers 401, 403, 404, 409 and 422 where the real one does, and plays the
gateway's controller: a while after a change it writes the status and, if asked to, moves real traffic.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any

from demo.fake_api_server import Asked, FakeApiServer, Json, RefusedByApi

TOKEN = "a-service-account-token-for-tests"
LARGEST_WEIGHT = 1_000_000
ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{name}"
VIRTUAL_SERVICE = "/apis/networking.istio.io/v1/namespaces/{namespace}/virtualservices/{name}"


class KubernetesFake(FakeApiServer):
    """settle: seconds until the gateway has taken a change over.  refuses: what it then says instead, when set."""

    def __init__(self, changed: Callable[[str, Any], None], settle: float = 0.05) -> None:
        self.settle = settle
        self.refuses = ""
        self._version = 1000
        super().__init__(changed)

    def create(self, path: str, kind: str, spec: Json) -> None:
        """Put an object in place, as ``kubectl apply`` would."""
        with self.lock:
            metadata = {"name": path.rpartition("/")[2], "generation": 1, "resourceVersion": self._next()}
            metadata["labels"] = {"team": "shop"}
            self.documents[path] = {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec, "status": {}}
            self._take_over(path)

    def answer(self, asked: Asked) -> Any:
        if asked.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedByApi(401, "Unauthorized")
        if "/namespaces/kube-system/" in asked.path:
            raise RefusedByApi(403, f"forbidden: cannot {asked.method.lower()} {asked.path}")
        if asked.path not in self.documents:
            raise RefusedByApi(404, f"{asked.path} not found")
        if asked.method == "GET":
            return self.documents[asked.path]
        if asked.method != "PUT":
            raise RefusedByApi(405, "the server does not allow this method on the requested resource")
        return self._replace(asked.path, asked.body)

    def _replace(self, path: str, new: Any) -> Json:
        old = self.documents[path]
        if not isinstance(new, dict) or not isinstance(new.get("spec"), dict):
            raise RefusedByApi(422, "spec: Required value")
        version = new.get("metadata", {}).get("resourceVersion")
        if not version:
            raise RefusedByApi(422, "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update")
        if version != old["metadata"]["resourceVersion"]:
            raise RefusedByApi(409, "the object has been modified; please apply your changes to the latest version")
        _check(new["spec"])
        kept = copy.deepcopy(new)
        kept["status"] = old["status"]  # a replace of the object never touches its status
        kept["metadata"]["resourceVersion"] = self._next()
        kept["metadata"]["generation"] = old["metadata"]["generation"] + (kept["spec"] != old["spec"])
        self.documents[path] = kept
        timer = threading.Timer(self.settle, self._take_over, [path])
        timer.daemon = True
        timer.start()
        return copy.deepcopy(kept)

    def _take_over(self, path: str) -> None:
        """What the controller does: move the traffic, then write the status, which is a new resourceVersion."""
        with self.lock:
            document = self.documents[path]
            if not self.refuses:
                self.changed(path, copy.deepcopy(document))
            if document["kind"] != "HTTPRoute":
                return  # Istio writes none
            generation = document["metadata"]["generation"]
            said = {"observedGeneration": generation, "status": "False" if self.refuses else "True"}
            said |= {"message": self.refuses, "reason": "BackendNotFound" if self.refuses else "Accepted"}
            conditions = [{"type": kind, **said} for kind in ("Accepted", "ResolvedRefs")]
            parents = [{"parentRef": {"name": "edge"}, "controllerName": "example/gateway", "conditions": conditions}]
            document["status"] = {"parents": parents}
            document["metadata"]["resourceVersion"] = self._next()

    def _next(self) -> str:
        self._version += 1
        return str(self._version)


def _check(spec: Json) -> None:
    """What the schemas of the two kinds refuse."""
    for rule in spec.get("rules", []):
        _check_weights([entry.get("weight", 1) for entry in rule.get("backendRefs", [])], LARGEST_WEIGHT)
    for rule in spec.get("http", []):
        weights = [entry.get("weight", 0) for entry in rule.get("route", [])]
        _check_weights(weights, LARGEST_WEIGHT)
        if len(weights) > 1 and sum(weights) != 100:
            raise RefusedByApi(422, f"total destination weight {sum(weights)} != 100")


def _check_weights(weights: list[Any], largest: int) -> None:
    for weight in weights:
        if not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= largest:
            raise RefusedByApi(422, f"weight: Invalid value: {weight}: must be an integer from 0 to {largest}")
