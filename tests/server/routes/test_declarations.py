"""What every route declares: the model or the content type of its response. No route module imports another."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute

from server import app
from server.http.schemas.base import ListObject, ResponseObject
from server.http.schemas.process import HealthObject

ROUTES_DIR = Path(app.__file__).parent / "routes"
ROUTES = [route for module in app.ROUTES for route in module.router.routes if isinstance(route, APIRoute)]


def undeclared(routes: Iterable[APIRoute]) -> list[str]:
    """Return the routes that declare neither a response model nor the content type of what is not JSON."""
    return [route.path for route in routes if not (is_modelled(route) or has_content_type(route))]


def is_modelled(route: APIRoute) -> bool:
    models = get_args(route.response_model) or [route.response_model]
    return all(isinstance(model, type) and issubclass(model, ResponseObject) for model in models)


def has_content_type(route: APIRoute) -> bool:
    declared = route.response_class
    return isinstance(declared, type) and not issubclass(declared, JSONResponse) and bool(declared.media_type)


def imported_routes(source: str, route_modules: Iterable[str]) -> set[str]:
    """Return those of ``route_modules`` that the module with this source imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {module for module in route_modules if f"server.routes.{module}" in names}


@pytest.fixture(scope="module")
def route_modules() -> dict[str, str]:
    """Name → source of each module that defines routes."""
    sources = {path.stem: path.read_text() for path in ROUTES_DIR.glob("*.py")}
    return {name: source for name, source in sources.items() if "APIRouter(" in source}


def test_every_route_declares_its_response() -> None:
    assert len(ROUTES) > 40
    assert undeclared(ROUTES) == []


def test_a_route_without_a_declared_response_is_found() -> None:
    router = APIRouter()

    @router.get("/plain", response_class=PlainTextResponse)
    @router.get("/untyped")
    @router.get("/dictionary", response_model=dict[str, Any])
    @router.get("/list", response_model=ListObject[HealthObject])
    async def answer() -> Any: ...

    routes = [route for route in router.routes if isinstance(route, APIRoute)]
    assert sorted(undeclared(routes)) == ["/dictionary", "/untyped"]


def test_every_route_module_is_served(route_modules: dict[str, str]) -> None:
    assert {module.__name__.rpartition(".")[2] for module in app.ROUTES} == route_modules.keys()


def test_no_route_module_imports_another(route_modules: dict[str, str]) -> None:
    found = {name: imported_routes(source, route_modules) for name, source in route_modules.items()}
    assert {name: imported for name, imported in found.items() if imported} == {}


@pytest.mark.parametrize(
    "source",
    ["from server.routes import files", "from server.routes.files import show", "import server.routes.files as f"],
)
def test_an_import_of_a_route_module_is_found(source: str, route_modules: dict[str, str]) -> None:
    assert imported_routes(source, route_modules) == {"files"}
