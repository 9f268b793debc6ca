from rewarddance.rewards.backbones.left_padding import attention_mask_of, pad_left, text_positions


def test_rows_end_together():
    assert pad_left([[1, 2, 3], [4]], 0).tolist() == [[1, 2, 3], [0, 0, 4]]


def test_positions_count_tokens_and_not_padding():
    mask = attention_mask_of([[7, 7, 7], [7]])
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert text_positions(mask).tolist() == [[0, 1, 2], [0, 0, 0]]
