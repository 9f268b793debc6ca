from pathlib import Path

import pytest
import torch

from rewarddance.generators.loading import load_generator
from rewarddance.generators.protocol import ImageSize
from rewarddance.lab.generator_weights import lab_generator
from rewarddance.rewards.loading import new_reward_model
from rewarddance.search.bench import Drawing
from rewarddance.search.best_of_n import BestOfNSettings
from rewarddance.search.budget import Budget
from rewarddance.search.particles import ParticleSettings
from rewarddance.search.path_search import PathSettings
from rewarddance.search.pictures import picture_of
from rewarddance.search.running import Search
from rewarddance.search.verification import Verifier
from tests.tiny_generators import GENERATOR_FAMILIES, tiny_generator_folder
from tests.tiny_models import save_tiny_model

ALGORITHMS = (
    BestOfNSettings(3),
    PathSettings(paths=2, branches=2, starts=3, levels=(0.7, 0.4), renoise=0.15),
    ParticleSettings(particles=3, levels=(0.7,)),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = save_tiny_model("internvl", tmp_path_factory.mktemp("model"))
    return {kind: new_reward_model(folder, kind, instruction="brief") for kind in ("pointwise", "pairwise")}


def counted(generator, monkeypatch):
    """Rows that the generator was really asked for."""
    rows = {"velocities": 0, "decodes": 0}
    velocity, decode = generator.velocity, generator.decode

    def counting_velocity(latents, *others):
        rows["velocities"] += len(latents)
        return velocity(latents, *others)

    def counting_decode(latents, size=None):
        rows["decodes"] += len(latents)
        return decode(latents, size)

    monkeypatch.setattr(generator, "velocity", counting_velocity)
    monkeypatch.setattr(generator, "decode", counting_decode)
    return rows


@pytest.mark.parametrize("family", [*GENERATOR_FAMILIES, "drawn"])
def test_every_family_of_generators_can_be_searched(tmp_path: Path, monkeypatch, model, family: str):
    is_drawn = family == "drawn"
    folder = lab_generator() if is_drawn else tiny_generator_folder(family, tmp_path)
    generator = load_generator(folder, device="cpu")
    size = None if is_drawn else ImageSize(32, 48)
    for settings in ALGORITHMS:
        search = Search(generator, Verifier(model["pointwise"]), settings, Drawing(7, 1.0, size, batch_size=4))
        with monkeypatch.context() as context:
            rows = counted(generator, context)
            result = search.run("a red circle")
        assert result.problem is None
        assert result.spent == result.stated == search.budget()
        assert result.spent == Budget(**rows, judgements=result.spent.judgements)
        shape = (3, 32, 32) if is_drawn else (3, 32, 48)
        assert {tuple(one.pixels.shape) for one in result.candidates} == {shape}
        assert len({one.pixels.mean().item() for one in result.candidates}) > 1


@pytest.mark.parametrize("way", ["round_robin", "knock_out"])
def test_a_real_pairwise_model_holds_tournaments(model, way: str):
    generator = load_generator(lab_generator(), device="cpu")
    search = Search(generator, Verifier(model["pairwise"], way), BestOfNSettings(4), Drawing(2))
    result = search.run("a red circle")
    assert result.spent == result.stated
    assert result.winner is not None
    wins = [one.opinion.wins for one in result.candidates]
    assert sum(wins) == result.spent.judgements


def test_a_real_pairwise_model_scores_against_references(model, tmp_path: Path):
    generator = load_generator(lab_generator(), device="cpu")
    plain = Search(generator, Verifier(model["pairwise"], "knock_out"), BestOfNSettings(2), Drawing(2))
    pictures = [tmp_path / "one.png", tmp_path / "two.png"]
    for path, candidate in zip(pictures, plain.run("a red circle").candidates, strict=True):
        picture_of(candidate.pixels).save(path)
    verifier = Verifier(model["pairwise"], references={"a red circle": pictures})
    result = Search(generator, verifier, BestOfNSettings(2), Drawing(2)).run("a red circle")
    assert result.problem is None
    assert result.spent.judgements == 2
    # Each picture equals one of the references, against which a two-order model gives it 0: rewards are opposite.
    rewards = [one.opinion.reward for one in result.candidates]
    assert rewards[0] == pytest.approx(-rewards[1], abs=1e-4)
    assert torch.isfinite(torch.tensor(rewards)).all()
