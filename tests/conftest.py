"""Settings of every test: nothing is fetched from the network, and nothing depends on the number of cores."""

import os

import torch

# The checker that pyproject.toml names must be loaded before the first module that it checks.
import tests.type_checking  # noqa: F401

# Read when huggingface_hub and tokenizers are imported, so they are set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# One thread, here and in the processes that tests start: the models are tiny, and on a busy machine threads that wait
# for each other take many times as long.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
