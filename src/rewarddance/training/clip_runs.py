"""What a run with a generator of clips cannot have, because it knows pictures only."""

from pathlib import Path

from rewarddance.config.alignment import AlignConfig
from rewarddance.core.errors import UsageError
from rewarddance.training.activation_sizes import CLIP_PIPELINES
from rewarddance.training.weight_headers import FolderFiles, read_settings


def names_clips(config: AlignConfig) -> bool:
    """Whether the generator of a config makes clips; of a hub id, only the loaded generator tells.

    Raises:
        ModelError: The folder's index is damaged.
    """
    files = FolderFiles(Path(config.generator.path).expanduser())
    return read_settings(files, "model_index.json").get("_class_name") in CLIP_PIPELINES


def refuse_pictures_for_clips(config: AlignConfig, generator: str, shows_references: bool) -> None:
    """Stop at what knows pictures only, beside a generator of clips.

    Args:
        config: Of the run.
        generator: What makes the clips, as messages call it.
        shows_references: Whether a reward or a judge compares with stored reference images.

    Raises:
        UsageError: Clips would be compared with pictures, which no reward model has learned; learned beside pictures;
            or sent to a service, which is asked about 8-bit images.
    """
    if shows_references:
        raise UsageError(
            f"a reward or judge compares with reference images, and {generator} makes clips, for which there are none; "
            "take pointwise or scalar reward models"
        )
    if config.regulariser.pretraining_data is not None:
        raise UsageError(
            f"regulariser.pretraining_data holds pictures, and {generator} makes clips; leave it out, and the "
            "reference policy makes the clips"
        )
    services = [*(reward.service for reward in config.rewards), *(judge.service for judge in config.judges)]
    if any(services):
        raise UsageError(
            f"a reward model behind a service is asked about pictures, and {generator} makes clips; "
            "leave rewards[].service and judges[].service out, which runs the models here"
        )
