"""Settings of every test: nothing is fetched from the network, and nothing depends on the number of cores."""

import os

# The checker that pyproject.toml names must be loaded before the first module that it checks.
import tests.type_checking  # noqa: F401

# Read when huggingface_hub and tokenizers are imported, so they are set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
