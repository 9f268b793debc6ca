from rewarddance.config.fields import closest_path, describe_fields
from rewarddance.config.kinds import CONFIG_KINDS
from rewarddance.config.training import TrainConfig


def test_every_key_of_every_kind_has_a_meaning():
    for kind, schema in CONFIG_KINDS.items():
        silent = [field.path for field in describe_fields(schema) if not field.meaning]
        assert silent == [], kind


def test_keys_of_blocks_are_listed_with_their_dotted_path():
    paths = [field.path for field in describe_fields(TrainConfig)]

    assert "model.base" in paths
    assert "model.lora.rank" in paths
    assert "optimizer" not in paths  # a block that is always on is only its keys


def test_a_required_key_has_no_default():
    defaults = {field.path: field.default for field in describe_fields(TrainConfig)}

    assert defaults["model.base"] is None
    assert defaults["model.revision"] == "null"
    assert defaults["model.freeze_vision"] == "false"
    assert defaults["optimizer.betas"] == "[0.9, 0.95]"


def test_types_are_described_in_words():
    types = {field.path: field.type for field in describe_fields(TrainConfig)}

    assert types["data.evaluation"] == "path or null"
    assert types["orders"] == "`both` or `random` or `as_stored`"
    assert types["model.lora"] == "block or null"
    assert types["optimizer.betas"] == "list of number"


def test_the_nearest_key_is_looked_for_in_its_own_block_first():
    assert closest_path(TrainConfig, "model.lora.rnk") == "model.lora.rank"
    assert closest_path(TrainConfig, "sed") == "seed"


def test_a_key_that_resembles_nothing_has_no_nearest_key():
    assert closest_path(TrainConfig, "zebra") is None
