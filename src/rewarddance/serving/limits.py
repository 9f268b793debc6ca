"""What the service takes at most. A request may lower these numbers, never raise them."""

from dataclasses import dataclass, field

from rewarddance.core.media import MediaLimits

MIB = 2**20


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """Ceilings of one process; every one of them is checked before the thing it bounds is decoded or queued.

    Attributes:
        max_body_bytes: Of one request.
        max_buffered_bytes: Of all bodies that are being received, queued or judged together.
        max_candidates: Of a ranking.
        max_references: Reference images of a judgement.
        max_chat_media: Images of a chat completion.
        max_prompt_characters: Of a prompt, and of all text of a chat completion.
        media: Bytes, pixels and frames of one image or clip.
        body_seconds: In which a body has to arrive.
        header_seconds: In which a connection has to send a whole request head, again after every answer.
        discard_seconds: For which a refused body is still read and thrown away, so that the client sees the answer.
        deadline_seconds: In which a request is answered or given up, from the moment its body is there.
        queue_comparisons: Comparisons that may wait; a ranking of N counts N (N - 1) / 2.
        batch_comparisons: Comparisons that are judged together.
        batch_wait_seconds: For which the first request of a batch waits for others; 0 when the engine is busy anyway.
        max_connections: Open at a time.
        drain_seconds: Between "not ready" and the end of listening, when the service is told to stop.
    """

    max_body_bytes: int = 16 * MIB
    max_buffered_bytes: int = 256 * MIB
    max_candidates: int = 16
    max_references: int = 8
    max_chat_media: int = 16
    max_prompt_characters: int = 8_192
    media: MediaLimits = field(
        default_factory=lambda: MediaLimits(
            max_pixels=4_096 * 4_096, max_bytes=12 * MIB, max_frames=600, max_frame_pixels=1_920 * 1_088
        )
    )
    body_seconds: float = 20.0
    header_seconds: float = 10.0
    discard_seconds: float = 2.0
    deadline_seconds: float = 30.0
    queue_comparisons: int = 128
    batch_comparisons: int = 16
    batch_wait_seconds: float = 0.002
    max_connections: int = 1_024
    drain_seconds: float = 1.0

    def seconds_for(self, asked: float | None) -> float:
        """In which a request is answered or given up: what the client asks for, within the service's own deadline."""
        return min(asked or self.deadline_seconds, self.deadline_seconds)
