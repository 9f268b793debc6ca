"""The id under which a client may ask the same thing again."""

import re

from starlette.requests import Request

from rewarddance.serving.refusals import RefusalCode, RefusedError

REQUEST_ID_HEADER = "x-request-id"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,128}")


def request_id_of(request: Request) -> str | None:
    """The id that the client gave; None for none.

    Raises:
        RefusedError: Not 8 to 128 letters, digits, dots, dashes and underscores.
    """
    given = request.headers.get(REQUEST_ID_HEADER)
    if given is not None and _REQUEST_ID.fullmatch(given) is None:
        raise RefusedError(RefusalCode.INVALID_REQUEST, REQUEST_ID_HEADER)
    return given
