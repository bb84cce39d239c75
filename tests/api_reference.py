"""Writes docs/reference/endpoints.md from the OpenAPI schema: `python -m tests.api_reference`."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "endpoints.md"
PREFIX = "/webhooks/"

HEAD = """# Endpoints, field by field

Made from the [OpenAPI schema](api.md#openapi) by `python -m tests.api_reference`. What holds for
all of them, and examples, are in [API](api.md).
"""


def page(schema: dict[str, Any]) -> str:
    """The page in Markdown."""
    components = schema["components"]["schemas"]
    parts = [HEAD]
    for path, verbs in schema["paths"].items():
        if path.startswith(PREFIX):
            for verb, operation in verbs.items():
                lines = [
                    f"## {operation['summary']}",
                    f"`{verb.upper()} {path.removeprefix(PREFIX)}`",
                ]
                parts.append("\n\n".join([*lines, *sections(operation, components)]) + "\n")
    return "\n".join(parts)


def sections(operation: dict[str, Any], components: dict[str, Any]) -> Iterator[str]:
    parameters = [each for each in operation.get("parameters", []) if each["in"] != "path"]
    if parameters:
        yield table(
            "parameter",
            ((f"{each['name']}` ({each['in']})", each) for each in parameters),
            components,
        )
    if body := operation.get("requestBody"):
        fields = body["content"]["application/json"]["schema"]
        yield table("body", writable(fields, components), components)
    answers = operation["responses"]
    done = min(answers)
    answer = answers[done].get("content", {}).get("application/json", {}).get("schema", {})
    shown = list(readable(answer, components))
    if shown:
        yield table(f"answer {done}", shown, components)
    else:
        yield f"Answers {done} without a body."
    refused = ", ".join(f"{status}" for status in sorted(answers) if status > "300")
    yield f"Otherwise {refused}."


def table(title: str, rows: Any, components: dict[str, Any]) -> str:
    lines = [f"| {title} | is | |", "|---|---|---|"]
    for name, schema in rows:
        shown = name if "`" in name else name + "`"
        text = schema.get("description", "").replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `{shown} | {kind(schema.get('schema', schema), components)} | {text} |")
    return "\n".join(lines)


def resolve(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """The schema itself, behind a reference or the `allOf` that bears a description."""
    inner = schema.get("allOf", [schema])[0]
    found: dict[str, Any] = (
        components[inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
    )
    return found


def fields(schema: dict[str, Any], components: dict[str, Any]) -> Iterator[Any]:
    schema = resolve(schema, components)
    if "items" in schema:
        schema = resolve(schema["items"], components)
    if "results" in schema.get("properties", {}):  # a page
        schema = resolve(schema["properties"]["results"]["items"], components)
    yield from schema.get("properties", {}).items()


def writable(schema: dict[str, Any], components: dict[str, Any]) -> list[Any]:
    return [each for each in fields(schema, components) if not each[1].get("readOnly")]


def readable(schema: dict[str, Any], components: dict[str, Any]) -> list[Any]:
    return [each for each in fields(schema, components) if not each[1].get("writeOnly")]


def kind(schema: dict[str, Any], components: dict[str, Any]) -> str:
    """In a word or two: "text (uuid)", "list", "`active` `paused` …"."""
    schema = resolve(schema, components)
    if "enum" in schema:
        return " ".join(f"`{each}`" for each in schema["enum"])
    types = schema.get("type", "any" if "anyOf" not in schema else "object")
    words = " or ".join([types] if isinstance(types, str) else types)
    details = [schema.get("format"), limits(schema)]
    inside = ", ".join(each for each in details if each)
    return f"{words} ({inside})" if inside else words


def limits(schema: dict[str, Any]) -> str:
    found = [
        f"{word} {schema[key]:,}"
        for key, word in (
            ("minimum", "from"),
            ("maximum", "up to"),
            ("maxLength", "up to"),
            ("maxItems", "up to"),
        )
        if key in schema and abs(schema[key]) < 2**31  # beyond, it is the database's
    ]
    return " ".join(found)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    django.setup()
    from drf_spectacular.generators import SchemaGenerator

    PAGE.write_text(page(SchemaGenerator().get_schema(public=True)))
