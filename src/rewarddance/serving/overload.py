"""Refusals while the queue is full, in front of the application.

Under overload most requests are refused, and the time of refusals is missing for answers. The routes would say the
same, after the work of a framework: three times as much.
"""

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rewarddance.serving.authentication import Authenticator
from rewarddance.serving.refusals import RefusedError
from rewarddance.serving.service import Service

JUDGE_ROUTE, RANK_ROUTE, CHAT_ROUTE = "/v1/judge", "/v1/rank", "/v1/chat/completions"
_MODEL_ROUTES = frozenset((JUDGE_ROUTE, RANK_ROUTE, CHAT_ROUTE))


@dataclass(frozen=True, slots=True)
class OverloadGate:
    """An ASGI application that answers 429 itself, to whom the routes would answer it, and passes on everything else.

    Attributes:
        app: The application behind it.
        service: Whose queue counts.
        authenticator: The same as that of the routes: a stranger is passed on, and does not learn that the queue is
            full.
    """

    app: ASGIApp
    service: Service
    authenticator: Authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        refusal = self._refusal(scope)
        if refusal is None:
            await self.app(scope, receive, send)
            return
        self.service.monitoring.request(scope["path"], refusal.code.value, 0.0)
        await JSONResponse(refusal.body, refusal.status, refusal.headers)(scope, receive, send)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _MODEL_ROUTES:
            return None
        refusal = self.service.full_queue
        if refusal is None or not self.authenticator.allows(Headers(scope=scope).get("authorization", "")):
            return None
        return refusal
