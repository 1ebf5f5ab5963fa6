"""Schemas of the Prometheus Operator's kinds that we use, as strict as an API server with field validation.

They are made by `controller-gen crd:maxDescLen=0` from the operator's Go types, v0.95.1 (Apache-2.0), and lie in
`crds/`. A structural schema allows no unknown field; JSON Schema does unless told.

python -m tests.quality.crd_schemas RENDERED     checks the manifests of these kinds in a rendered overlay
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

CRDS = Path(__file__).with_name("crds")


@cache
def crd_schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each kind."""
    found = {}
    for file in sorted(CRDS.glob("*.yaml")):
        spec = yaml.safe_load(file.read_text())["spec"]
        schema = _strict(spec["versions"][0]["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}  # the API server's own, not the kind's
        found[spec["names"]["kind"]] = schema
    return found


def _strict(schema: Any) -> Any:
    """Close every object that lists its fields."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(value) for name, value in schema.items()}
    if isinstance(strict.get("pattern"), str):
        strict["pattern"] = strict["pattern"].replace("^(?i)", "(?i)^")  # Go lets a flag stand anywhere
    if isinstance(strict.get("properties"), dict) and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def main() -> int:
    """Check one rendering; say what is wrong."""
    manifests = [each for each in yaml.safe_load_all(Path(sys.argv[1]).read_text()) if each["kind"] in crd_schemas()]
    faults = [
        f"{manifest['kind']} {manifest['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message}"
        for manifest in manifests
        for error in jsonschema.Draft202012Validator(crd_schemas()[manifest["kind"]]).iter_errors(manifest)
    ]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults or not manifests else 0


if __name__ == "__main__":
    sys.exit(main())
