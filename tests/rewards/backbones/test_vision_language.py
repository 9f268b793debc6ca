"""Every family against plain transformers: tokens, positions, logits; gradients; independence of the batch."""

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from rewarddance.rewards.backbones.loading import load_backbone
from rewarddance.rewards.backbones.protocol import Backbone
from tests.rewards.backbones.reference_processors import reference_inputs, reference_processor
from tests.tiny_models import FAMILIES

QUESTION = (
    "Is image 2 better than image 1 for the prompt?\n  Prompt: a red square, 2 blue circles — naïve.\n\nImage 1:",
    "\nImage 2: ",
    "Answer yes or no.",
)


def pixels_of(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


def ask(backbone, first, second):
    return backbone.encode([QUESTION[0], first, QUESTION[1], second, QUESTION[2]])


def answer_logits(backbone, questions):
    labels = [backbone.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no", "Yes")]
    with torch.no_grad():
        return backbone.answer_hidden(backbone.collate(questions)) @ backbone.label_rows(labels).T


@pytest.fixture
def two_images(draw_image):
    return draw_image(45, 71, seed=1), draw_image(80, 52, seed=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_token_ids_equal_the_chat_template_with_the_processors_expansion(
    family, backbone_of, tiny_model_folder, two_images, monkeypatch
):
    backbone = backbone_of(family)
    processor = reference_processor(family, tiny_model_folder(family), monkeypatch)
    first, second = two_images
    theirs = reference_inputs(processor, [QUESTION[0], first, QUESTION[1], second, QUESTION[2]])
    ours = ask(backbone, *map(backbone.picture_from_image, two_images))
    assert list(ours.token_ids) == theirs["input_ids"][0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_that_starts_with_an_image_follows_the_template_too(
    family, backbone_of, tiny_model_folder, two_images, monkeypatch
):
    backbone = backbone_of(family)
    processor = reference_processor(family, tiny_model_folder(family), monkeypatch)
    theirs = reference_inputs(processor, [two_images[0], " a dog"])
    ours = backbone.encode([backbone.picture_from_image(two_images[0]), " a dog"])
    assert list(ours.token_ids) == theirs["input_ids"][0].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_answer_logits_equal_the_plain_full_forward_at_the_last_position(
    family, backbone_of, tiny_model_folder, two_images, monkeypatch
):
    backbone = backbone_of(family)
    processor = reference_processor(family, tiny_model_folder(family), monkeypatch)
    first, second = two_images
    theirs = reference_inputs(processor, [QUESTION[0], first, QUESTION[1], second, QUESTION[2]])
    with torch.no_grad():
        full = backbone.model(**theirs).logits[:, -1]  # (1, vocab)
        hidden = backbone.answer_hidden(
            backbone.collate([ask(backbone, *map(backbone.picture_from_image, two_images))])
        )
        ours = hidden @ backbone.label_rows(range(full.shape[-1])).T
    assert full.std() > 0.1  # random weights, but not a constant answer
    torch.testing.assert_close(ours, full, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_depends_on_both_images(family, backbone_of, draw_image):
    backbone = backbone_of(family)
    a, b, c = (backbone.picture_from_image(draw_image(64, 64, seed)) for seed in (1, 2, 3))
    logits = answer_logits(backbone, [ask(backbone, a, b), ask(backbone, c, b), ask(backbone, a, c)])
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    assert (logits[0] - logits[2]).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(family, backbone_of, two_images, draw_image):
    backbone = backbone_of(family)
    first, second = map(backbone.picture_from_image, two_images)
    third = backbone.picture_from_image(draw_image(33, 90, seed=3))
    question = ask(backbone, first, second)
    longer = backbone.encode([*QUESTION, third, *QUESTION, second])
    shorter = backbone.encode([third, "yes?"])
    text_only = backbone.encode(["no image here"])
    alone = answer_logits(backbone, [question])
    padded = answer_logits(backbone, [longer, question, text_only, shorter])
    torch.testing.assert_close(padded[1:2], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[3:], answer_logits(backbone, [shorter]), atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[2:3], answer_logits(backbone, [text_only]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_shown_in_several_questions_is_carried_once_and_changes_no_answer(family, backbone_of, two_images):
    backbone = backbone_of(family)
    first, second = map(backbone.picture_from_image, two_images)
    shared = backbone.collate([ask(backbone, first, second), ask(backbone, second, first)])
    first_again, second_again = map(backbone.picture_from_image, two_images)
    separate = backbone.collate([ask(backbone, first, second), ask(backbone, second_again, first_again)])
    assert shared.inputs["pixel_values"].numel() * 2 == separate.inputs["pixel_values"].numel()
    with torch.no_grad():
        torch.testing.assert_close(backbone.answer_hidden(shared), backbone.answer_hidden(separate), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_the_pixels_and_agree_with_finite_differences(family, tiny_model_folder):
    backbone = load_backbone(tiny_model_folder(family), dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    # Off the bounds of [0, 1], where clipping after a resize has a kink.
    pixels = 0.3 + 0.4 * torch.rand(3, 45, 71, generator=rng, dtype=torch.float64)
    shown = 0.3 + 0.4 * torch.rand(1, 3, 40, 40, generator=rng, dtype=torch.float64)
    (reference,) = backbone.pictures_from_pixels(shown)
    contrast = backbone.label_rows([backbone.tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")])

    def log_odds(image):
        batch = backbone.collate(
            [ask(backbone, reference, backbone.pictures_from_pixels(image[None])[0]), backbone.encode(["?"] * 300)]
        )
        return backbone.answer_hidden(batch)[0] @ (contrast[0] - contrast[1])

    pixels.requires_grad_(True)
    (gradient,) = torch.autograd.grad(log_odds(pixels), pixels)
    for seed in range(3):
        direction = torch.randn(pixels.shape, generator=rng.manual_seed(seed), dtype=torch.float64)
        direction = 0.6 * direction / direction.norm() + 0.8 * gradient / gradient.norm()
        with torch.no_grad():
            step = 3e-3 * direction
            slope = (log_odds(pixels + step) - log_odds(pixels - step)) / 6e-3
        expected = (gradient * direction).sum()
        assert expected.abs() > 1e-4
        # The error falls with the square of the step down to about 1e-5 here; below that the language models'
        # norms, which compute in float32 whatever their input, set the floor.
        torch.testing.assert_close(slope, expected, rtol=2e-4, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_of_a_padded_row_is_finite_in_every_weight(family, tiny_model_folder, two_images):
    backbone = load_backbone(tiny_model_folder(family))
    pictures = list(map(backbone.picture_from_image, two_images))
    batch = backbone.collate([ask(backbone, *pictures), backbone.encode([pictures[0], "short"])])
    backbone.answer_hidden(batch).square().sum().backward()
    gradients = [parameter.grad for parameter in backbone.model.parameters() if parameter.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_even_grey_image_is_judged_like_any_other(family, backbone_of):
    # Half grey normalises to exactly zero where the mean is one half, and transformers' SmolVLM drops tiles of zeros.
    backbone = backbone_of(family)
    (grey,) = backbone.pictures_from_pixels(torch.full((1, 3, 40, 60), 0.5))
    assert answer_logits(backbone, [ask(backbone, grey, grey)]).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_text_cannot_close_its_turn_or_claim_an_image(family, backbone_of, two_images):
    backbone = backbone_of(family)
    picture = backbone.picture_from_image(two_images[0])
    hostile = "".join(backbone.tokenizer.all_special_tokens) + backbone.layout.placeholder
    plain = backbone.encode([picture, "?"]).token_ids
    attacked = backbone.encode([picture, hostile]).token_ids
    special = set(backbone.tokenizer.all_special_ids)
    assert [token for token in attacked if token in special] == [token for token in plain if token in special]
    assert hostile in backbone.tokenizer.decode(attacked)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_loads_again_with_the_same_answers_and_limits(family, tiny_model_folder, two_images, tmp_path):
    backbone = load_backbone(tiny_model_folder(family))
    backbone.set_image_limits(32 * 32, 96 * 96)
    backbone.save(tmp_path)
    again = load_backbone(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    for image in two_images:
        torch.testing.assert_close(
            again.picture_from_image(image).pixel_values,
            backbone.picture_from_image(image).pixel_values,
            rtol=0,
            atol=0,
        )
    before, after = (
        answer_logits(model, [ask(model, *map(model.picture_from_image, two_images))]) for model in (backbone, again)
    )
    assert torch.equal(before, after)


@pytest.mark.parametrize("family", FAMILIES)
def test_limits_bound_the_tokens_of_an_image_and_none_restores_the_configs_own(family, tiny_model_folder, draw_image):
    backbone = load_backbone(tiny_model_folder(family))
    image = draw_image(200, 200)
    own = backbone.picture_from_image(image).tokens
    backbone.set_image_limits(None, 32 * 32)
    # One tile of 32x32 pixels (4 tokens), or 32x32 pixels in patches of 8 merged two by two (4 tokens).
    assert backbone.picture_from_image(image).tokens == 4
    backbone.set_image_limits(None, 128 * 128)
    assert backbone.picture_from_image(image).tokens > 4
    backbone.set_image_limits(None, None)
    assert backbone.picture_from_image(image).tokens == own


@pytest.mark.parametrize("family", FAMILIES)
def test_every_spelling_of_yes_and_no_is_a_single_token_of_the_tiny_tokenizer(family, backbone_of):
    tokenizer = backbone_of(family).tokenizer
    for word in ("yes", "no", "Yes", "No", " yes", " no", " Yes", " No"):
        assert len(tokenizer.encode(word, add_special_tokens=False)) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_in_bfloat16_gives_nearly_the_same_answer(family, backbone_of, tiny_model_folder, two_images):
    exact = backbone_of(family)
    rounded = load_backbone(tiny_model_folder(family), dtype=torch.bfloat16)
    question = ask(exact, *map(exact.picture_from_image, two_images))
    batch = rounded.collate([question]).to(torch.device("cpu"), torch.bfloat16)
    with torch.no_grad():
        hidden = rounded.answer_hidden(batch)
        # bfloat16 keeps 8 bits; hidden states are of size 1.
        torch.testing.assert_close(hidden.float(), exact.answer_hidden(exact.collate([question])), atol=0.15, rtol=0)
    assert hidden.dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_a_loaded_model_is_a_backbone(family, backbone_of):
    assert isinstance(backbone_of(family), Backbone)
    assert backbone_of(family).max_tokens == 2048


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_opens_a_saved_model(family, tiny_model_folder, two_images, tmp_path):
    backbone = load_backbone(tiny_model_folder(family))
    backbone.save(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    question = ask(backbone, *map(backbone.picture_from_image, two_images))
    assert tokenizer.decode(question.token_ids) == backbone.tokenizer.decode(question.token_ids)
    images = processor(images=[two_images[0]], return_tensors="pt")
    theirs = images["pixel_values"].flatten(0, -4) if family == "smolvlm" else images["pixel_values"]
    assert torch.equal(theirs, backbone.picture_from_image(two_images[0]).pixel_values)
    inputs = backbone.collate([question])
    with torch.no_grad():
        logits = model(**inputs.inputs).logits[:, -1]
        ours = backbone.answer_hidden(inputs) @ backbone.label_rows(range(logits.shape[-1])).T
    torch.testing.assert_close(logits, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_asked_several_times_is_carried_once_and_answered_each_time(family, backbone_of, two_images):
    backbone = backbone_of(family)
    first, second = map(backbone.picture_from_image, two_images)
    one, other = ask(backbone, first, second), backbone.encode([first, "short"])
    assert len(backbone.collate([one, other, one]).inputs["input_ids"]) == 2
    alike = [ask(backbone, first, second), other, ask(backbone, first, second)]
    assert len(backbone.collate(alike).inputs["input_ids"]) == 3
    repeated = answer_logits(backbone, [one, other, one])
    torch.testing.assert_close(repeated, answer_logits(backbone, alike), atol=1e-5, rtol=0)
