"""Pictures that were prepared lately, kept from one call to the next: every epoch shows the same files again."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

from rewarddance.rewards.backbones.protocol import Picture

_MAX_BYTES = 128 * 2**20


class KeptPictures:
    """The most recently used pictures, by whatever names a medium and its content; bounded in bytes.

    Args:
        max_bytes: Of pixel values; media that are larger than this alone are not kept.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._known: OrderedDict[Hashable, tuple[Picture, ...]] = OrderedDict()

    def get(self, key: Hashable) -> tuple[Picture, ...] | None:
        """The pictures of a medium, if they are still there."""
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        return found

    def keep(self, key: Hashable, pictures: tuple[Picture, ...]) -> None:
        """Keep the pictures of a medium, and let go of those that were not used for longest."""
        size = _bytes_of(pictures)
        if size > self._max_bytes or key in self._known:
            return
        self._known[key] = pictures
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, oldest = self._known.popitem(last=False)
            self._bytes -= _bytes_of(oldest)


def _bytes_of(pictures: Sequence[Picture]) -> int:
    return sum(picture.pixel_values.nbytes for picture in pictures)
