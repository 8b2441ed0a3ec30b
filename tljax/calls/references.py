"""A JSON schema with the definitions that its references point to in place of the references."""

from __future__ import annotations

from typing import Any

from tljax.core.errors import InputError

MAX_REFERENCES = 1000  # of one parameter: definitions that point to each other several times grow exponentially
MAX_DEPTH = 100
BLOCKS = ("$defs", "definitions")
# Keys of a schema that may hold a reference.
_KEYS = frozenset(("$ref", "items", "additionalProperties", "anyOf", "oneOf", "allOf", "properties"))


def resolve_references(schema: dict[str, Any], definitions: dict[str, Any], location: str) -> dict[str, Any]:
    """Returns a schema in which each `$ref` to a definition is replaced by it, at every depth.

    definitions: the schema whose `$defs` or `definitions` hold the targets. Keys beside a `$ref` win over those of its
    target. A definition that contains itself cannot be written out: its inner `$ref` stays. So does a `$ref` to
    anything else. Raises InputError for a schema with more than MAX_REFERENCES of them, and
    for one that nests more than MAX_DEPTH deep.
    """
    if _KEYS.isdisjoint(schema):
        return schema
    count = 0

    def resolve(schema: Any, inside: tuple[str, ...], depth: int) -> Any:
        nonlocal count
        if not isinstance(schema, dict):
            return schema
        if depth > MAX_DEPTH:
            raise InputError(f"{location}: nests more than {MAX_DEPTH} schemas in each other; flatten it")
        # A target may be a reference again.
        while (reference := schema.get("$ref")) not in inside and (
            target := _target(reference, definitions)
        ) is not None:
            count += 1
            if count > MAX_REFERENCES:
                raise InputError(
                    f"{location}: its $refs stand for more than {MAX_REFERENCES:,} schemas; describe the parameter "
                    "more briefly"
                )
            inside = (*inside, str(reference))
            schema = target | {key: value for key, value in schema.items() if key != "$ref"}
        changed = {}
        for key in ("items", "additionalProperties"):
            if isinstance(schema.get(key), dict):
                changed[key] = resolve(schema[key], inside, depth + 1)
        for key in ("anyOf", "oneOf", "allOf"):
            if isinstance(schema.get(key), list):
                changed[key] = [resolve(member, inside, depth + 1) for member in schema[key]]
        if isinstance(schema.get("properties"), dict):
            changed["properties"] = {
                name: resolve(value, inside, depth + 1) for name, value in schema["properties"].items()
            }
        return schema | changed if changed else schema

    return resolve(schema, (), 1)


def _target(reference: Any, definitions: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the definition that a reference such as `#/$defs/Point` points to, None if it points to none."""
    for block in BLOCKS:
        prefix = f"#/{block}/"
        targets = definitions.get(block)
        if isinstance(reference, str) and reference.startswith(prefix) and isinstance(targets, dict):
            target = targets.get(reference.removeprefix(prefix))
            return target if isinstance(target, dict) else None
    return None
