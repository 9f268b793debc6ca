"""The service's description of itself. Bodies are read by hand, counted, so FastAPI has to be told their schemas."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rewarddance.serving.schemas import ChatBody, JudgeBody, RankBody

_PLACE = "#/components/schemas/{model}"
_BODIES: tuple[type[BaseModel], ...] = (JudgeBody, RankBody, ChatBody)


def body_of(schema: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` of a route: JSON, or a form with that JSON in its part `request`."""
    reference = {"$ref": _PLACE.format(model=schema.__name__)}
    form = {
        "type": "object",
        "properties": {"request": reference},
        "required": ["request"],
        "additionalProperties": {"type": "string", "format": "binary"},
    }
    content = {"application/json": {"schema": reference}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def description_of(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of all routes."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    _, schemas = models_json_schema([(body, "validation") for body in _BODIES], ref_template=_PLACE)
    document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
    document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"bearer": []}]
    return document
