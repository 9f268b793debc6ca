"""The scoring engine against the same questions read one by one, whole, by plain transformers."""

from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers.modeling_layers import GradientCheckpointingLayer

from rewarddance.core.types import JudgementRequest
from rewarddance.rewards.backbones.kept_states import bytes_on_gpu
from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.backbones.protocol import EncodedQuestion
from rewarddance.rewards.backbones.scoring_engine import ScoringEngine
from rewarddance.rewards.backbones.vision_language import VisionLanguageBackbone
from rewarddance.rewards.checkpointed_layers import checkpoint_layers
from tests.rewards.conftest import NewModel
from tests.tiny_models import FAMILIES, save_tiny_model

CRITERIA = "Judge how well each image shows what the prompt asks for.\n"
PROMPTS = ("a red square", "two blue circles left of a green triangle")

BackboneOf = Callable[[str], VisionLanguageBackbone]


@pytest.fixture(scope="session")
def backbone_of(tmp_path_factory: pytest.TempPathFactory) -> BackboneOf:
    loaded: dict[str, VisionLanguageBackbone] = {}

    def backbone(family: str) -> VisionLanguageBackbone:
        if family not in loaded:
            loaded[family] = load_backbone(save_tiny_model(family, tmp_path_factory.mktemp("engine") / family))
        loaded[family].engine.features.clear()
        loaded[family].engine.states.clear()
        return loaded[family]

    return backbone


def _images(count: int, seed: int = 0) -> list[Image.Image]:
    """Noise of several sizes, wide and tall."""
    rng = torch.Generator().manual_seed(seed)
    sizes = [(40, 40), (40, 40), (72, 36), (36, 72)]
    pixels = [torch.randint(0, 256, (*sizes[n % 4], 3), generator=rng, dtype=torch.uint8) for n in range(count)]
    return [Image.fromarray(one.numpy()) for one in pixels]


def _question(backbone: Any, prompt: str, *pictures: Any) -> EncodedQuestion:
    parts: list[Any] = [f"{CRITERIA}Prompt: {prompt}\n"]
    for number, picture in enumerate(pictures, start=1):
        parts += [f"Image {number}: ", picture, "\n"]
    joined: list[Any] = []
    for part in [*parts, "Is the last image better? Answer yes or no."]:
        if joined and isinstance(part, str) and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return backbone.encode(joined)


def _tournament(backbone: Any, count: int = 4) -> list[EncodedQuestion]:
    pictures = [backbone.picture_from_image(image) for image in _images(count)]
    return [_question(backbone, PROMPTS[0], one, other) for one, other in permutations(pictures, 2)]


def _mixed(backbone: Any) -> list[EncodedQuestion]:
    """Two prompts, one to three images, an image against itself, a question twice, and one without images."""
    one, two, three, four = (backbone.picture_from_image(image) for image in _images(4, seed=1))
    shown = [(one, two), (two, one), (one, two, three), (four,), (three, three), (one, two), ()]
    return [_question(backbone, prompt, *pictures) for prompt in PROMPTS for pictures in shown]


def _one_by_one(backbone: Any, questions: Sequence[EncodedQuestion]) -> torch.Tensor:
    """Each question whole and alone, through the model's own forward pass with its own attention."""
    with torch.no_grad():
        return torch.cat([backbone.answer_hidden(backbone.collate([question])) for question in questions])


def _engine(backbone: Any, questions: Sequence[EncodedQuestion]) -> torch.Tensor:
    with torch.no_grad():
        return backbone.answer_states(questions)


class _Counter:
    """Counts tokens that pass a decoder layer, and pixel values that pass the vision tower."""

    def __init__(self, backbone: VisionLanguageBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = 0
        self.pictures = 0
        engine: Any = backbone.engine
        embed, encode = engine._language_model.get_input_embeddings(), engine._encode_pictures
        read = embed.forward

        def forward(token_ids: Any) -> Any:
            self.tokens += token_ids.numel()
            return read(token_ids)

        def encode_pictures(pictures: Any, layout: Any) -> Any:
            self.pictures += len(pictures)
            return encode(pictures, layout)

        monkeypatch.setattr(embed, "forward", forward)
        monkeypatch.setattr(engine, "_encode_pictures", encode_pictures)


@pytest.mark.parametrize("questions_of", [_tournament, _mixed])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_equal_those_of_questions_read_whole_and_alone(family: str, questions_of: Any, backbone_of: BackboneOf):
    backbone = backbone_of(family)
    questions = questions_of(backbone)
    expected = _one_by_one(backbone, questions)
    assert expected.std(0).max() > 0.01  # the questions differ
    torch.testing.assert_close(_engine(backbone, questions), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_read_from_kept_states_equal_fresh_ones(family: str, backbone_of: BackboneOf):
    backbone = backbone_of(family)
    questions = _mixed(backbone)
    _engine(backbone, questions[::2])
    found = backbone.engine.states.counts.found
    torch.testing.assert_close(_engine(backbone, questions), _one_by_one(backbone, questions), atol=1e-4, rtol=0)
    assert backbone.engine.states.counts.found > found


@pytest.mark.parametrize("family", FAMILIES)
def test_repeatable_answers_are_the_same_bits_whatever_was_asked_before(
    family: str, backbone_of: BackboneOf, monkeypatch: Any
):
    backbone = backbone_of(family)
    monkeypatch.setattr(backbone.engine, "is_repeatable", True)
    asked = _mixed(backbone)[3:11]
    fresh = _engine(backbone, asked)
    torch.testing.assert_close(fresh, _one_by_one(backbone, asked), atol=1e-4, rtol=0)
    others = [*_mixed(backbone), *_tournament(backbone)]
    for before in (others[:1], others[1:4], others[::3], others, asked):
        backbone.engine.features.clear()
        backbone.engine.states.clear()
        _engine(backbone, before)
        assert torch.equal(_engine(backbone, asked), fresh)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_any_length_give_the_same_answers(family: str, backbone_of: BackboneOf, monkeypatch: Any):
    backbone = backbone_of(family)
    questions = _mixed(backbone)
    whole = _engine(backbone, questions)
    for tokens in (1, 90, 250):
        monkeypatch.setattr(backbone.engine, "max_tokens", tokens)
        backbone.engine.states.clear()
        torch.testing.assert_close(_engine(backbone, questions), whole, atol=1e-5, rtol=0)


def test_a_tournament_of_n_encodes_n_images_and_reads_n_prefixes(backbone_of: BackboneOf, monkeypatch: Any):
    backbone = backbone_of("internvl")
    pictures = [backbone.picture_from_image(image.resize((32, 32))) for image in _images(5)]
    questions = [_question(backbone, PROMPTS[0], one, other) for one, other in permutations(pictures, 2)]
    ids = list(questions[0].token_ids)
    image_token = backbone.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    first = ids.index(image_token)
    second = ids.index(image_token, first + pictures[0].tokens)
    counter = _Counter(backbone, monkeypatch)
    _engine(backbone, questions)
    assert counter.pictures == 5
    # The head once, each first image once, and of each of the 20 questions only what follows its first image.
    assert counter.tokens == first + 5 * (second - first) + 20 * (len(ids) - second)


def test_equal_images_are_one_image(backbone_of: BackboneOf, monkeypatch: Any):
    backbone = backbone_of("internvl")
    image, other = _images(2)
    counter = _Counter(backbone, monkeypatch)
    copies = [backbone.picture_from_image(image.copy()) for _ in range(3)]
    _engine(backbone, [_question(backbone, PROMPTS[0], one, backbone.picture_from_image(other)) for one in copies])
    assert counter.pictures == 2


def test_a_second_candidate_against_the_same_reference_reads_neither_reference_nor_prompt_again(
    backbone_of: BackboneOf, monkeypatch: Any
):
    backbone = backbone_of("qwen3_vl")
    reference, one, other = (backbone.picture_from_image(image) for image in _images(3))
    _engine(backbone, [_question(backbone, PROMPTS[0], reference, one)])
    counter = _Counter(backbone, monkeypatch)
    question = _question(backbone, PROMPTS[0], reference, other)
    _engine(backbone, [question])
    ids = list(question.token_ids)
    image_token = backbone.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    second = ids.index(image_token, ids.index(image_token) + reference.tokens)
    assert counter.pictures == 1
    assert counter.tokens == len(ids) - second


def test_what_a_policy_has_just_made_is_not_kept(new_model: NewModel):
    """It does not come again; the reference image that it is judged against does."""
    model: Any = new_model("pairwise")
    engine = model.backbone.engine
    rng = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 32, 32, generator=rng)
    reference = torch.rand(1, 3, 32, 32, generator=rng).expand_as(pixels)
    with torch.no_grad():
        first = model.reward(pixels, PROMPTS[:2], reference)
        features, states = engine.features.nbytes, engine.states.nbytes
        again = model.reward(pixels.flip(-1), PROMPTS[:2], reference)
    assert 0 < features == engine.features.nbytes
    assert 0 < states == engine.states.nbytes
    assert not torch.allclose(first, again)


def test_full_memory_costs_what_was_kept_and_no_answer(
    new_model: NewModel, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
):
    model: Any = new_model("pairwise")
    engine = model.backbone.engine
    request = JudgementRequest(PROMPTS[0], images[1], images[0])
    before = model.judge([request])[0].reward
    read, tries = engine._read, []

    def crowded(plan: Any, features: Any) -> Any:
        tries.append(engine.states.nbytes)
        if engine.states.nbytes:
            raise torch.OutOfMemoryError("no room")
        return read(plan, features)

    monkeypatch.setattr(engine, "_read", crowded)
    assert model.judge([request])[0].reward == pytest.approx(before, abs=1e-6)
    assert tries[0] > tries[1] == 0


def test_a_changed_weight_empties_what_was_kept(new_model: NewModel, images: list[Image.Image]):
    model: Any = new_model("pairwise")
    request = JudgementRequest(PROMPTS[0], images[1], images[0])
    before = model.judge([request])[0].reward
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-2, fused=True)
    for parameter in model.module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = model.judge([request])[0].reward
    model.backbone.engine.features.clear()
    model.backbone.engine.states.clear()
    assert after == model.judge([request])[0].reward
    assert after != before


def test_what_is_kept_stays_within_its_bound(backbone_of: BackboneOf):
    backbone = backbone_of("internvl")
    engine = backbone.engine
    bounds = engine.features.max_bytes, engine.states.max_bytes
    engine.features.max_bytes = engine.states.max_bytes = 30_000
    _engine(backbone, _tournament(backbone, 6))
    assert 0 < engine.features.nbytes <= 30_000
    assert 0 < engine.states.nbytes <= 30_000
    engine.features.max_bytes, engine.states.max_bytes = bounds


def test_nothing_is_kept_when_the_bound_is_zero(backbone_of: BackboneOf):
    backbone = backbone_of("internvl")
    engine = backbone.engine
    bounds = engine.features.max_bytes, engine.states.max_bytes
    engine.features.max_bytes = engine.states.max_bytes = 0
    questions = _tournament(backbone)
    torch.testing.assert_close(_engine(backbone, questions), _one_by_one(backbone, questions), atol=1e-4, rtol=0)
    assert engine.features.nbytes == engine.states.nbytes == 0
    engine.features.max_bytes, engine.states.max_bytes = bounds


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_live_pixels_equals_that_of_whole_questions(family: str, backbone_of: BackboneOf):
    backbone = backbone_of(family)
    rng = torch.Generator().manual_seed(3)
    live, still = (torch.rand(3, 48, 48, generator=rng) for _ in range(2))
    weights = torch.randn(2, 48, generator=rng)
    slopes = []
    for read in (
        lambda rows: backbone.answer_hidden(backbone.collate(rows)),
        backbone.answer_states,
        backbone.answer_states,  # and again, from kept states
    ):
        pixels = live.clone().requires_grad_(True)
        pictures = backbone.pictures_from_pixels(still[None])[0], backbone.pictures_from_pixels(pixels[None])[0]
        hidden = read([_question(backbone, PROMPTS[0], *shown) for shown in (pictures, pictures[::-1])])
        slopes.append(torch.autograd.grad((hidden * weights).sum(), pixels)[0])
    assert slopes[0].abs().max() > 1e-3
    for slope in slopes[1:]:
        assert (slope - slopes[0]).norm() <= 1e-4 * slopes[0].norm()


def _slope(backbone: VisionLanguageBackbone) -> tuple[torch.Tensor, int]:
    """Gradient of three questions at the pixels that they share, and bytes that waited for the backward pass."""
    rng = torch.Generator().manual_seed(3)
    still, live = (torch.rand(3, 48, 48, generator=rng) for _ in range(2))
    weights = torch.randn(3, 48, generator=rng)
    held: dict[tuple[int, int], int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            held[tensor.untyped_storage().data_ptr(), tensor._version] = tensor.untyped_storage().nbytes()
        return tensor

    def count_input(layer: Any, given: Any) -> None:
        # What a checkpoint holds of its layer is no saved tensor.
        if isinstance(layer, GradientCheckpointingLayer) and torch.is_grad_enabled():
            count(given[0])

    pixels = live.requires_grad_(True)
    pictures = backbone.pictures_from_pixels(still[None])[0], backbone.pictures_from_pixels(pixels[None])[0]
    hook = register_module_forward_pre_hook(count_input)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        asked = [_question(backbone, prompt, *pictures) for prompt in PROMPTS]
        hidden = backbone.answer_states([*asked, _question(backbone, PROMPTS[0], *pictures[::-1])])
    hook.remove()
    backbone.model.train()  # whatever comes between
    (gradient,) = torch.autograd.grad((hidden * weights).sum(), pixels)
    backbone.model.eval()
    return gradient, sum(held.values())


@pytest.mark.parametrize("max_tokens", [None, 40])
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_layers_hold_less_and_change_no_gradient(family: str, max_tokens: int | None, tmp_path: Path):
    backbone = load_backbone(save_tiny_model(family, tmp_path))
    backbone.model.requires_grad_(False)
    # With short rows, later ones read keys and values with gradient from earlier ones.
    backbone.engine.max_tokens = max_tokens
    plain, held = _slope(backbone)
    checkpoint_layers(backbone.model)
    slope, held_less = _slope(backbone)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(slope, plain, rtol=1e-5, atol=1e-7)
    # Of two layers each, the last of the language model is read for the answers alone and keeps what it did.
    assert held_less < 0.7 * held


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_windows_of_one_length_attend_at_once_and_as_one_by_one(family: str, backbone_of: BackboneOf, monkeypatch: Any):
    backbone: Any = backbone_of(family)
    shown = [backbone.picture_from_image(image) for image in _images(8)]
    inputs = backbone.layout.picture_inputs(shown)
    calls: list[tuple[int, ...]] = []
    attention = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Any, *others: Any, **options: Any) -> Any:
        calls.append(query.shape)
        return attention(query, *others, **options)

    with torch.no_grad():
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
        at_once = torch.cat(list(backbone.layout.picture_features(backbone.model.model, inputs, None).pooler_output))
        counts = [len(calls)]
        vision = backbone.model.model.visual
        monkeypatch.setattr(vision.config, "_attn_implementation_internal", "sdpa")
        for module in vision.modules():
            if hasattr(module, "config"):
                monkeypatch.setattr(module.config, "_attn_implementation_internal", "sdpa")
        one_by_one = torch.cat(list(backbone.layout.picture_features(backbone.model.model, inputs, None).pooler_output))
    # Two blocks, and no more lengths of windows than sizes of images; alone, every image is a window at least.
    assert counts[0] <= 2 * 4
    assert len(calls) - counts[0] >= 2 * 8
    torch.testing.assert_close(at_once, one_by_one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vector_of_an_image_is_the_mean_of_its_features_whatever_is_beside_it(family: str, backbone_of: BackboneOf):
    backbone = backbone_of(family)
    pixels = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(4)).requires_grad_(True)
    pictures = backbone.pictures_from_pixels(pixels)
    vectors = backbone.picture_vectors(pictures)
    with torch.no_grad():
        for vector, picture in zip(vectors, pictures, strict=True):
            inputs = backbone.layout.picture_inputs([picture])
            made = backbone.layout.picture_features(backbone.model.model, inputs, None).pooler_output
            rows = made[0] if family.startswith("qwen") else made.flatten(0, -2)
            torch.testing.assert_close(vector, rows.mean(0), rtol=1e-4, atol=1e-5)
    assert not vectors.requires_grad
    assert (vectors[0] - vectors[1]).norm() > 1e-3


def test_what_does_not_depend_on_live_pixels_is_read_without_a_graph(backbone_of: BackboneOf, monkeypatch: Any):
    backbone = backbone_of("internvl")
    backbone.model.requires_grad_(False)
    with_graph: list[bool] = []
    engine: Any = backbone.engine
    layer = engine._language_model.layers[0]
    layer.register_forward_hook(lambda _, given, made: with_graph.append(made.requires_grad))
    still, live = (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    pictures = (
        backbone.pictures_from_pixels(still[None])[0],
        backbone.pictures_from_pixels(live.requires_grad_(True)[None])[0],
    )
    backbone.answer_states([_question(backbone, PROMPTS[0], *pictures)])
    assert with_graph == [False, True]
    layer._forward_hooks.clear()


def test_the_model_saved_after_scoring_names_no_attention_of_ours(backbone_of: BackboneOf, tmp_path: Path):
    backbone = backbone_of("smolvlm")
    _engine(backbone, _tournament(backbone, 2))
    backbone.save(tmp_path)
    assert "rewarddance" not in (tmp_path / "config.json").read_text()


def test_an_engine_reads_nothing_when_nothing_is_asked(new_model: NewModel):
    assert new_model("pairwise").judge([]) == []


def test_kept_states_of_one_precision_are_not_used_in_another(backbone_of: BackboneOf):
    backbone = backbone_of("internvl")
    questions = _tournament(backbone, 2)
    exact = _engine(backbone, questions)
    with torch.autocast("cpu", torch.bfloat16):
        rough = _engine(backbone, questions)
    assert (rough.float() - exact).abs().max() > 1e-4
    torch.testing.assert_close(_engine(backbone, questions), exact, atol=1e-6, rtol=0)


def test_an_engine_is_made_for_every_backbone(backbone_of: BackboneOf):
    assert isinstance(backbone_of("internvl").engine, ScoringEngine)


@pytest.mark.parametrize(("total", "kept"), [(141 * 2**30, 4 * 2**30), (64 * 2**30, 4 * 2**30), (8 * 2**30, 2**29)])
def test_a_small_gpu_is_not_filled_with_what_is_kept(total: int, kept: int):
    assert bytes_on_gpu(total) == kept
