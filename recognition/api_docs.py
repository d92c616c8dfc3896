"""The API's own description (OpenAPI), made ready for a page that people read."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.utils.text import slugify
from django.utils.translation import gettext

from recognition.api import api

Json = dict[str, Any]

REFERENCE: Final = "#/components/schemas/"


@dataclass(frozen=True)
class Type:
    """A type in words, around the name of the shape that it is of, if any: "list of ", "Picture", ""."""

    before: str
    shape: str = ""
    after: str = ""


@dataclass(frozen=True)
class Field:
    name: str
    type: Type
    description: str
    required: bool = False


@dataclass(frozen=True)
class Body:
    content_type: str
    fields: list[Field]


@dataclass(frozen=True)
class Answer:
    """type: None where it has no body."""

    statuses: str
    type: Type | None


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    summary: str
    description: str
    parameters: list[Field]
    bodies: list[Body]
    answers: list[Answer]

    @property
    def anchor(self) -> str:
        return slugify(f"{self.method} {self.path}")


@dataclass(frozen=True)
class Shape:
    name: str
    description: str
    fields: list[Field]


@dataclass(frozen=True)
class Documentation:
    description: str
    calls: list[Call]
    shapes: list[Shape]


def documentation() -> Documentation:
    """Everything that /api/v1/openapi.json says, in the reader's language."""
    schema = api.get_openapi_schema()
    calls = [
        _call(method.upper(), path, operation)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    shapes = [
        Shape(name, "", list(_fields(shape)))
        for name, shape in schema["components"]["schemas"].items()
        if name != "Input"  # a query's parameters, which stand beside their call
    ]
    return Documentation(gettext(schema["info"]["description"]), calls, shapes)


def _call(method: str, path: str, operation: Json) -> Call:
    parameters = [
        Field(
            parameter["name"],
            _type(parameter["schema"]),
            _bounds(parameter["schema"]),
            parameter["required"],
        )
        for parameter in operation.get("parameters", [])
    ]
    bodies = [
        Body(content_type, list(_fields(content["schema"])))
        for content_type, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    return Call(
        method,
        path,
        gettext(operation["summary"]),
        gettext(operation["description"]),
        parameters,
        bodies,
        list(_answers(operation["responses"])),
    )


def _answers(responses: Json) -> Iterator[Answer]:
    """The errors, which all have one shape, stand together."""
    by_type: dict[Type | None, list[str]] = {}
    for status, response in responses.items():
        content = response.get("content", {}).get("application/json")
        by_type.setdefault(_type(content["schema"]) if content else None, []).append(str(status))
    for kind, statuses in by_type.items():
        yield Answer(", ".join(statuses), kind)


def _fields(shape: Json) -> Iterator[Field]:
    required = shape.get("required", [])
    for name, schema in shape.get("properties", {}).items():
        description = schema.get("description", "")
        yield Field(
            name, _type(schema), gettext(description) if description else _bounds(schema), name in required
        )


def _type(schema: Json) -> Type:
    if "$ref" in schema:
        return Type("", schema["$ref"].removeprefix(REFERENCE))
    if "anyOf" in schema:
        one = _type(schema["anyOf"][0])
        return Type(one.before, one.shape, one.after + gettext(" or null"))
    if "enum" in schema:
        return Type(" | ".join(schema["enum"]))
    if schema.get("type") == "array":
        one = _type(schema["items"])
        return Type(gettext("list of ") + one.before, one.shape, one.after)
    if isinstance(schema.get("additionalProperties"), dict):
        one = _type(schema["additionalProperties"])
        return Type(gettext("by name: ") + one.before, one.shape, one.after)
    form = schema.get("format") or schema.get("contentEncoding")
    if form == "binary":
        return Type(gettext("file"))
    return Type(f"{schema.get('type', 'object')}{f' ({form})' if form else ''}")


def _bounds(schema: Json) -> str:
    bounds = []
    if "minimum" in schema:
        bounds.append(gettext("at least %(number)s") % {"number": schema["minimum"]})
    if "maximum" in schema:
        bounds.append(gettext("at most %(number)s") % {"number": schema["maximum"]})
    if "default" in schema and schema["default"] not in ("", []):
        bounds.append(gettext("%(number)s if left out") % {"number": schema["default"]})
    return ", ".join(bounds)
