"""From the text that stands for a medium to bytes whose header has been checked."""

import base64
import binascii
import re
from collections.abc import Mapping

from rewarddance.core.errors import MediaError, OversizedMediaError
from rewarddance.core.media import MediaLimits, inspect_media
from rewarddance.serving.fetching import Fetcher
from rewarddance.serving.refusals import RefusalCode, RefusedError

_PART = "part:"
_DATA = re.compile(r"data:[a-z0-9.+/-]{0,100};base64,", re.IGNORECASE)


def read_medium(reference: str, parts: Mapping[str, bytes], limits: MediaLimits, fetcher: Fetcher, field: str) -> bytes:
    """The file of a medium, bounded and with a header that keeps to the limits; nothing has been decoded.

    Args:
        reference: A data URI, `part:NAME`, or an address on the operator's list. Never a path.
        parts: Files of the form.
        limits: Bytes, pixels and frames.
        fetcher: For addresses.
        field: Where the reference stood, for the refusal.

    Raises:
        RefusedError: None of these, or over a limit.
    """
    try:
        data = _bytes_of(reference, parts, fetcher)
        inspect_media(data, limits, counts_frames=True)
    except RefusedError as refused:
        raise RefusedError(refused.code, field) from None
    except OversizedMediaError:
        raise RefusedError(RefusalCode.MEDIA_TOO_LARGE, field) from None
    except MediaError:
        raise RefusedError(RefusalCode.UNREADABLE_MEDIA, field) from None
    return data


def _bytes_of(reference: str, parts: Mapping[str, bytes], fetcher: Fetcher) -> bytes:
    if reference.startswith(_PART):
        name = reference.removeprefix(_PART)
        if name not in parts:
            raise RefusedError(RefusalCode.INVALID_MEDIA_REFERENCE)
        return parts[name]
    head = _DATA.match(reference)
    if head is not None:
        try:
            return base64.b64decode(reference[head.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError(RefusalCode.INVALID_MEDIA_REFERENCE) from None
    if fetcher.allowed and reference.startswith(("http://", "https://")):
        return fetcher.fetch(reference)
    raise RefusedError(RefusalCode.INVALID_MEDIA_REFERENCE)
