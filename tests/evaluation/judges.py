"""A judge whose answers are written in the test, with a bias for the second slot."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rewarddance.core.types import Choice, Comparison, Judgement, JudgementRequest, Media, Status


class TableJudge:
    """Knows the quality of each file by its name; fails on files that it does not know."""

    def __init__(self, quality: Mapping[str, float], slot_log_odds: float = 0.0) -> None:
        self.quality = quality
        self.slot_log_odds = slot_log_odds
        self.asked: list[str | None] = []

    def judge(self, requests: Sequence[JudgementRequest], *, order_mode: str = "two") -> list[Judgement]:
        assert order_mode == "one"
        self.asked += [request.id for request in requests]
        return [self._judge(request) for request in requests]

    def _judge(self, request: JudgementRequest) -> Judgement:
        names = [media.path.stem for media in (request.reference_image, request.candidate)]
        if not all(name in self.quality for name in names):
            return Judgement(status=Status.UNREADABLE_MEDIA, message="not an image", id=request.id)
        reward = self.quality[names[1]] - self.quality[names[0]] + self.slot_log_odds
        return Judgement(status=Status.OK, score=0.5, reward=reward, leaked_mass=0.25, id=request.id)


def comparison(name: str, first: str, second: str, choice: Choice | None, **more: object) -> Comparison:
    """A comparison of two files, with a prompt of its own unless one is given."""
    prompt = str(more.pop("prompt", f"prompt of {name}"))
    media = (Media(Path(f"/media/{first}.png")), Media(Path(f"/media/{second}.png")))
    return Comparison(id=name, prompt=prompt, first=media[0], second=media[1], choice=choice, **more)
