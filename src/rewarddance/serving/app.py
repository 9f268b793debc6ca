"""The routes. Every one of them has the authentication as a dependency; a test enumerates them."""

import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from rewarddance import __version__
from rewarddance.serving.authentication import Authenticator
from rewarddance.serving.monitoring import CONTENT_TYPE
from rewarddance.serving.openapi import body_of, description_of
from rewarddance.serving.overload import CHAT_ROUTE, JUDGE_ROUTE, RANK_ROUTE
from rewarddance.serving.plans import Planner
from rewarddance.serving.refusals import RefusalCode, RefusedError
from rewarddance.serving.rendering import chat_answer, judge_answer, rank_answer
from rewarddance.serving.schemas import ChatBody, ErrorAnswer, JudgeAnswer, JudgeBody, RankAnswer, RankBody
from rewarddance.serving.service import Service

_STARTED = "rewarddance_started"


def build_app(service: Service, token: str | None) -> FastAPI:
    """The ASGI application of a service.

    Args:
        service: Not running yet; it runs as long as the application does.
        token: What every request must carry; None for a service on loopback.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="RewardDance scoring service",
        version=__version__,
        lifespan=lifespan,
        dependencies=[Depends(_stamp), Depends(Authenticator.of(token))],
        responses={"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}},
        # FastAPI's own pages would be routes without the dependency; the schema is served by one of ours.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    _add_model_routes(app, service)
    _add_state_routes(app, service)
    _add_error_answers(app, service)
    return app


def _add_model_routes(app: FastAPI, service: Service) -> None:
    @app.post(JUDGE_ROUTE, response_model=JudgeAnswer, openapi_extra=body_of(JudgeBody))
    async def judge(request: Request) -> Response:
        """Judge one candidate."""
        return await _timed(
            service, request, JUDGE_ROUTE, service.respond(request, JUDGE_ROUTE, Planner.judge, judge_answer)
        )

    @app.post(RANK_ROUTE, response_model=RankAnswer, openapi_extra=body_of(RankBody))
    async def rank(request: Request) -> Response:
        """Rank candidates of one prompt by pairwise wins."""
        return await _timed(
            service, request, RANK_ROUTE, service.respond(request, RANK_ROUTE, Planner.rank, rank_answer)
        )

    @app.post(CHAT_ROUTE, openapi_extra=body_of(ChatBody))
    async def chat(request: Request) -> Response:
        """Answer a question by one token, with log-probabilities, in the shape of OpenAI's chat completions."""
        return await _timed(
            service, request, CHAT_ROUTE, service.respond(request, CHAT_ROUTE, Planner.chat, chat_answer)
        )


def _add_state_routes(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> Response:
        """200 while the process can go on; 500 when it has to be restarted."""
        if service.is_stuck or service.failure is not None:
            raise RefusedError(RefusalCode.ENGINE_FAILED)
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        """200 while requests are taken; 503 before the model is loaded and when the service is about to stop."""
        return JSONResponse({"status": "ok", "model": service.check_ready().name})

    @app.get("/v1/models")
    async def models() -> Response:
        """The one model, in OpenAI's shape."""
        name = service.check_ready().name
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model", "owned_by": "rewarddance"}]})

    @app.get("/metrics")
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics(), media_type=CONTENT_TYPE)

    @app.get("/openapi.json")
    async def openapi() -> Response:
        """This document."""
        return JSONResponse(description_of(app))


def _add_error_answers(app: FastAPI, service: Service) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        route = getattr(request.scope.get("route"), "path", "none")
        service.monitoring.request(route, error.code.value, _seconds(request))
        return JSONResponse(error.body, error.status, error.headers)

    async def no_such_thing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        is_method = error.status_code == HTTPStatus.METHOD_NOT_ALLOWED
        code = RefusalCode.METHOD_NOT_ALLOWED if is_method else RefusalCode.NOT_FOUND
        return await refuse(request, RefusedError(code))

    async def fail(request: Request, error: Exception) -> Response:
        # Starlette raises the error again after this answer, and uvicorn writes it to the log.
        return await refuse(request, RefusedError(RefusalCode.INTERNAL))

    app.add_exception_handler(RefusedError, refuse)
    app.add_exception_handler(HTTPException, no_such_thing)
    app.add_exception_handler(Exception, fail)


async def _stamp(request: Request) -> None:
    request.scope[_STARTED] = time.monotonic()


def _seconds(request: Request) -> float:
    started: Any = request.scope.get(_STARTED)
    return 0.0 if started is None else time.monotonic() - started


async def _timed(service: Service, request: Request, route: str, answer: Awaitable[Response]) -> Response:
    """Counts an answer; refusals are counted where they become responses."""
    response = await answer
    outcome = "ok" if response.status_code == HTTPStatus.OK else "hung_up"
    service.monitoring.request(route, outcome, _seconds(request))
    return response
