from pathlib import Path

import pytest

from rewarddance.config.loader import dump_config, load_config
from rewarddance.config.training import TrainConfig
from rewarddance.core.errors import ConfigError

SMALLEST = "model: {base: models/nano}\ndata: {train: data/lab}\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(SMALLEST)
    return path


def message_for(path: Path | None, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_byte_order_mark_is_no_part_of_the_first_key(config_file: Path):
    config_file.write_text("batch_size: 3\n" + SMALLEST, encoding="utf-8-sig")

    assert load_config(TrainConfig, config_file).batch_size == 3


def test_the_file_overrides_the_default(config_file: Path):
    config_file.write_text(SMALLEST + "batch_size: 3\n")

    assert load_config(TrainConfig, config_file).batch_size == 3


@pytest.mark.parametrize("text", ["out:", 'out: ""', "out: null"])
def test_an_empty_run_directory_is_refused(config_file: Path, text: str):
    message = f"{config_file}: out: it is empty; give a folder, or `.` for the current one"
    assert message_for(config_file, text.replace(": ", "=").replace(":", "=")) == message
    config_file.write_text(SMALLEST + text)
    assert message_for(config_file) == message


def test_a_dot_is_the_current_folder(config_file: Path):
    assert load_config(TrainConfig, config_file, ["out=."]).out == Path()


def test_set_overrides_the_file(config_file: Path):
    config_file.write_text(SMALLEST + "batch_size: 3\n")

    assert load_config(TrainConfig, config_file, ["batch_size=5"]).batch_size == 5


def test_the_last_override_wins(config_file: Path):
    assert load_config(TrainConfig, config_file, ["batch_size=5", "batch_size=6"]).batch_size == 6


def test_an_override_keeps_the_other_keys_of_its_block(config_file: Path):
    config = load_config(TrainConfig, config_file, ["model.freeze_vision=true"])

    assert config.model.base == "models/nano"
    assert config.model.freeze_vision is True


def test_an_override_switches_on_a_block_that_is_off(config_file: Path):
    config = load_config(TrainConfig, config_file, ["model.lora.rank=4"])

    assert config.model.lora is not None
    assert config.model.lora.rank == 4


def test_null_switches_a_block_off(config_file: Path):
    config_file.write_text("model: {base: m, lora: {rank: 4}}\ndata: {train: d}\n")

    assert load_config(TrainConfig, config_file, ["model.lora=null"]).model.lora is None


def test_a_number_in_exponent_form_is_a_number(config_file: Path):
    # YAML 1.1 reads 1e-5 (no point) as text.
    assert load_config(TrainConfig, config_file, ["optimizer.learning_rate=1e-5"]).optimizer.learning_rate == 1e-5


def test_a_config_needs_no_file_when_the_overrides_say_enough():
    config = load_config(TrainConfig, None, ["model.base=m", "data.train=d"])

    assert config.data.train == Path("d")


def test_the_dumped_config_loads_to_the_same_config(config_file: Path, tmp_path: Path):
    config = load_config(TrainConfig, config_file, ["model.lora.rank=4", "optimizer.betas=[0.8, 0.9]", "out=runs/x"])
    (tmp_path / "resolved.yaml").write_text(dump_config(config))

    assert load_config(TrainConfig, tmp_path / "resolved.yaml") == config


def test_a_typo_is_named_with_its_path_and_the_nearest_key(config_file: Path):
    message = message_for(config_file, "optimizer.learning_rat=1")

    assert "unknown key 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?" in message


def test_a_key_in_the_wrong_block_is_sent_to_the_right_one(config_file: Path):
    assert "did you mean 'optimizer.learning_rate'?" in message_for(config_file, "learning_rate=1")


def test_a_misspelt_block_is_recognised(config_file: Path):
    assert "did you mean 'optimizer.weight_decay'?" in message_for(config_file, "optimizer.wieght_decay=1")
    assert "unknown key 'optimiser'" in message_for(config_file, "optimiser.weight_decay=1")


def test_a_typo_is_reported_before_the_key_it_leaves_missing(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("model: {bse: m}\ndata: {train: d}\n")

    message = message_for(tmp_path / "a.yaml")

    assert "unknown key 'model.bse'; did you mean 'model.base'?" in message
    assert "(and 1 more)" in message


def test_an_unlike_key_gets_no_guess(config_file: Path):
    message = message_for(config_file, "zebra=1")

    assert "did you mean" not in message
    assert "config show" in message


def test_a_missing_key_is_named(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("data: {train: d}\n")

    assert "'model' is missing" in message_for(tmp_path / "a.yaml")


def test_a_wrong_value_is_shown(config_file: Path):
    assert "'batch_size' cannot be 0; input should be greater than or equal to 1" in message_for(
        config_file, "batch_size=0"
    )


def test_a_value_that_is_not_finite_is_refused(config_file: Path):
    assert "'optimizer.learning_rate' cannot be inf" in message_for(config_file, "optimizer.learning_rate=.inf")


def test_a_missing_file_is_one_line(tmp_path: Path):
    assert "no config file" in message_for(tmp_path / "absent.yaml")


def test_a_folder_is_not_a_config(tmp_path: Path):
    assert "cannot read" in message_for(tmp_path)


def test_bytes_that_are_not_text_are_refused(config_file: Path):
    config_file.write_bytes(b"\xff\xfe\x00")

    assert "as text" in message_for(config_file)


def test_a_list_is_not_a_config(config_file: Path):
    config_file.write_text("- a\n- b\n")

    assert "holds a list, not keys and values" in message_for(config_file)


def test_broken_yaml_is_reported_with_its_line(config_file: Path):
    config_file.write_text("model: {base: m}\ndata: [\n")

    assert "is not YAML in line 3" in message_for(config_file)


def test_a_control_character_is_one_line(config_file: Path):
    config_file.write_text("model: \x07")

    assert "is not YAML" in message_for(config_file)


def test_a_key_that_stands_twice_is_refused(config_file: Path):
    config_file.write_text(SMALLEST + "seed: 1\nseed: 2\n")

    assert "key 'seed' stands twice" in message_for(config_file)


def test_yaml_cannot_build_python_objects(config_file: Path):
    config_file.write_text("model: !!python/object/apply:os.getcwd []\n")

    assert "is not YAML" in message_for(config_file)


@pytest.mark.parametrize("override", ["batch_size", "=3", "a..b=3", ".a=1"])
def test_an_override_without_key_or_value_is_refused(config_file: Path, override: str):
    assert "is not KEY=VALUE" in message_for(config_file, override)


def test_an_override_cannot_go_below_a_value(config_file: Path):
    assert "model.base is a value" in message_for(config_file, "model.base.name=3")


def test_training_and_evaluating_on_the_same_split_is_refused(config_file: Path):
    assert "same folder" in message_for(config_file, "data.evaluation_split=train")


def test_pixel_bounds_in_the_wrong_order_are_refused(config_file: Path):
    assert "model: min_pixels (9) is above max_pixels (4)" in message_for(
        config_file, "model.min_pixels=9", "model.max_pixels=4"
    )
