# SPDX-License-Identifier: Apache-2.0
"""The client's type hints as JSON Schemas (draft 7)."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints, is_typeddict

Schema = dict[str, Any]

_SCALARS: dict[Any, str] = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
_MARKS = (Required, NotRequired)


class Shapes:
    """Collects the schemas of typed dictionaries under their names, so that other schemas can refer to them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.named: dict[str, Schema] = {}

    def schema(self, hint: Any) -> Schema:
        """The schema of a type hint. Raises NotImplementedError: the hint is of a kind that the client has not had so far."""
        origin, arguments = get_origin(hint), get_args(hint)
        if hint is Any:
            return {}
        if hint in _SCALARS:
            return {"type": _SCALARS[hint]}
        if is_typeddict(hint):
            return {"$ref": self._prefix + self._name(hint)}
        if origin in _MARKS:
            return self.schema(arguments[0])
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return self._union(arguments)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self.schema(arguments[1])}
        if isinstance(origin, type) and issubclass(origin, Iterable):
            return {"type": "array", "items": self.schema(arguments[0])}
        raise NotImplementedError(f"{hint} has no schema")

    def _union(self, choices: tuple[Any, ...]) -> Schema:
        # `Instance | Mapping[str, Any]`: any mapping may be passed, but its content is that of an Instance.
        if any(is_typeddict(choice) for choice in choices):
            choices = tuple(choice for choice in choices if get_origin(choice) is not Mapping)
        schemas = [self.schema(choice) for choice in choices]
        if len(schemas) == 1:
            return schemas[0]
        if all(set(schema) == {"type"} for schema in schemas):
            return {"type": [schema["type"] for schema in schemas]}
        return {"anyOf": schemas}

    def _name(self, shape: Any) -> str:
        name: str = shape.__name__
        if name not in self.named:
            self.named[name] = {}  # a shape may refer to itself
            hints = get_type_hints(shape, include_extras=True)
            usual = Required if shape.__total__ else NotRequired
            marks = {key: get_origin(hint) for key, hint in hints.items()}
            self.named[name] = {
                "type": "object",
                "description": paragraphs(shape),
                "required": [key for key, mark in marks.items() if (mark if mark in _MARKS else usual) is Required],
                "properties": {key: self.schema(hint) for key, hint in hints.items()},
            }
        return name


def paragraphs(documented: Any) -> str:
    """The docstring with each of its paragraphs on one line."""
    text = inspect.cleandoc(documented.__doc__)
    return "\n\n".join(paragraph.replace("\n", " ") for paragraph in text.split("\n\n"))
