"""JSON Schema of a release file for editors, made from the model.

    python -m canary_release.core.release_schema > include/release.schema.json

A file that the schema accepts may still be refused: what fits together (rising weights, the balancer's own options)
is checked when the file is read.
"""

import json
import sys
from typing import Any

from canary_release.core.release_model import ReleaseBlock


def release_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12."""
    schema = _without_null(ReleaseBlock.model_json_schema(mode="validation"))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "Canary release of a service",
    }


def schema_text() -> str:
    """The schema as it stands in the repository."""
    return json.dumps(release_schema(), indent=2, ensure_ascii=False) + "\n"


def _without_null(node: Any) -> Any:
    """A key without a value is refused, so null is neither a value nor a default."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _without_null(value) for key, value in node.items() if not (key == "default" and value is None)}
    choices = [choice for choice in kept.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        kept.pop("anyOf")
        return {**choices[0], **kept}
    return {**kept, "anyOf": choices} if choices else kept


if __name__ == "__main__":
    sys.stdout.write(schema_text())
