import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rewarddance.core.errors import ModelError
from rewarddance.rewards.answers import resolve_answer_tokens


def _word_tokenizer(*words: str) -> PreTrainedTokenizerFast:
    """Whole words only; everything else is the unknown token."""
    vocabulary = {word: number for number, word in enumerate(("[UNK]", *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


def test_every_spelling_that_is_one_token_counts_once():
    answers = resolve_answer_tokens(_word_tokenizer("yes", "Yes", "YES", "no", "No", "cat"))
    assert answers.yes_ids == (1, 2, 3)
    assert answers.no_ids == (4, 5)


def test_the_unknown_token_is_no_answer():
    answers = resolve_answer_tokens(_word_tokenizer("yes", "no"))
    assert answers.label_ids == (1, 2)


@pytest.mark.parametrize(("words", "missing"), [(("yes", "cat"), "no"), (("no", "cat"), "yes")])
def test_a_tokenizer_without_one_of_the_answers_is_refused_in_one_line(words: tuple[str, ...], missing: str):
    with pytest.raises(ModelError, match=f'no single token for "{missing}"') as refusal:
        resolve_answer_tokens(_word_tokenizer(*words))
    assert "\n" not in str(refusal.value)
