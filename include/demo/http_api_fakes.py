"""Strict fakes of three APIs that shift weights: Kong's and APISIX' Admin API and Consul's config entries.

Written from their documentation (developer.konghq.com/admin-api, apisix.apache.org/docs/apisix/admin-api,
developer.hashicorp.com/consul/api-docs/config); none of the three could be had for the tests.
"""

import copy
from typing import Any

from demo.fake_api_server import Asked, FakeApiServer, Json, RefusedByApi

KEY = "an-admin-key-for-tests"
TARGETS = "/upstreams/web/targets"
APISIX_ROUTE = "/apisix/admin/routes/web"
SPLITTER = "/v1/config/service-splitter/web"
_HEAVIEST = 65_535


class KongFake(FakeApiServer):
    """One upstream whose targets have weights from 0 to 65535, changed one at a time."""

    def __init__(self, targets: dict[str, int], changed: Any) -> None:
        super().__init__(changed)
        rows = [{"id": f"id-{name}", "target": name, "weight": weight} for name, weight in targets.items()]
        self.documents[TARGETS] = {"data": rows, "next": None}

    def answer(self, asked: Asked) -> Any:
        if asked.headers.get("Kong-Admin-Token") != KEY:
            raise RefusedByApi(401, "Invalid authentication credentials")
        rows = self.documents[TARGETS]["data"]
        if asked.method == "GET" and asked.path == TARGETS:
            return self.documents[TARGETS]
        row = next((row for row in rows if asked.path == f"{TARGETS}/{row['target']}"), None)
        if row is None or asked.method != "PATCH":
            raise RefusedByApi(404 if row is None else 405, "Not found" if row is None else "Method not allowed")
        weight = asked.body.get("weight") if isinstance(asked.body, dict) else None
        if not isinstance(weight, int) or isinstance(weight, bool) or not 0 <= weight <= _HEAVIEST:
            raise RefusedByApi(400, "schema violation (weight: value should be between 0 and 65535)")
        row["weight"] = weight
        self.changed(TARGETS, {row["target"]: row["weight"] for row in rows})
        return row


class ApisixFake(FakeApiServer):
    """One route with the plugin traffic-split; PATCH merges objects and replaces lists."""

    def __init__(self, weights: dict[str, int], changed: Any) -> None:
        super().__init__(changed)
        upstreams = [{"upstream_id": name, "weight": weight} for name, weight in weights.items()]
        plugins = {"traffic-split": {"rules": [{"weighted_upstreams": upstreams}]}, "prometheus": {}}
        self.documents[APISIX_ROUTE] = {"uri": "/*", "plugins": plugins, "upstream_id": next(iter(weights))}

    def answer(self, asked: Asked) -> Any:
        if asked.headers.get("X-API-KEY") != KEY:
            raise RefusedByApi(401, "failed to check token")
        if asked.path not in self.documents:
            raise RefusedByApi(404, "Key not found")
        if asked.method == "PATCH":
            merged = _merged(self.documents[asked.path], asked.body)
            upstreams = _upstreams(merged)
            self.documents[asked.path] = merged
            self.changed(asked.path, upstreams)
        return {"key": asked.path.removeprefix("/apisix/admin"), "value": self.documents[asked.path]}


class ConsulFake(FakeApiServer):
    """One service-splitter whose weights add up to 100; ``?cas=`` answers false when somebody was faster."""

    def __init__(self, weights: dict[str, float], changed: Any) -> None:
        super().__init__(changed)
        splits = [{"Weight": weight, "ServiceSubset": name} for name, weight in weights.items()]
        self.documents[SPLITTER] = {"Kind": "service-splitter", "Name": "web", "Splits": splits, "ModifyIndex": 10}

    def answer(self, asked: Asked) -> Any:
        if asked.headers.get("X-Consul-Token") != KEY:
            raise RefusedByApi(403, "Permission denied: token lacks permission 'operator:write'")
        if asked.method == "GET":
            if asked.path not in self.documents:
                raise RefusedByApi(404, f"Config entry not found for {asked.path}")
            return self.documents[asked.path]
        if (asked.method, asked.path) != ("PUT", "/v1/config"):
            raise RefusedByApi(405, "method not allowed")
        return self._put(asked)

    def _put(self, asked: Asked) -> bool:
        body: Json = asked.body if isinstance(asked.body, dict) else {}
        path = f"/v1/config/{body.get('Kind')}/{body.get('Name')}"
        old = self.documents.get(path)
        if old is None:
            raise RefusedByApi(400, f"invalid config entry {path}")
        weights = [split.get("Weight") for split in body.get("Splits", [])]
        if not weights or not all(isinstance(weight, int | float) and 0 <= weight <= 100 for weight in weights):
            raise RefusedByApi(400, "invalid split weight")
        if round(sum(weights), 2) != 100 or any(round(weight, 2) != weight for weight in weights):
            raise RefusedByApi(500, f"the sum of all split weights must be 100, not {sum(weights):f}")
        if "cas" in asked.query and asked.query["cas"] != str(old["ModifyIndex"]):
            return False
        self.documents[path] = {**copy.deepcopy(body), "ModifyIndex": old["ModifyIndex"] + 1}
        self.changed(path, {split["ServiceSubset"]: split["Weight"] for split in body["Splits"]})
        return True


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return copy.deepcopy(new)
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _upstreams(route: Json) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in route["plugins"]["traffic-split"]["rules"][0]["weighted_upstreams"]:
        weight = entry.get("weight")
        if not isinstance(weight, int) or weight < 0:
            raise RefusedByApi(400, 'failed to check the configuration of plugin traffic-split: property "weight"')
        found[entry["upstream_id"]] = weight
    return found
