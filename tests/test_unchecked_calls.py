"""What callers get wrong where no annotation is checked: each call ends with a line that says what to give instead."""

import json
import subprocess
import sys

import pytest

_RUNNER = """
import json, sys
results = {}
for name, code in json.load(sys.stdin).items():
    try:
        exec(code, {})
        results[name] = "no error"
    except Exception as error:
        results[name] = f"{type(error).__name__}: {error}"
print(json.dumps(results))
"""

_PIXELS = """
import torch
from rewarddance.rewards.pixel_batch import refuse_other_pixels as refuse
batch = torch.rand(2, 3, 8, 8)
"""

_GUARD = """
import torch
from rewarddance.config.guard import GuardConfig
from rewarddance.training.guard import Guard
def check(step, distance):
    guard = Guard(GuardConfig(), {"any": lambda pixels, prompts: [0.0, 0.0]})
    guard.check(step, torch.rand(2, 3, 8, 8), ["a", "b"], [0.0, 0.0], distance)
"""

_MEDIA = """
import io
import numpy as np
from rewarddance.core.media import load_image
"""

_JUDGING = """
from rewarddance.rewards.judging import judge_requests
"""

_OBJECTIVES = """
import torch
from rewarddance.objectives.forward_process import forward_process_loss
from rewarddance.objectives.group_relative import clipped_ratio_loss, group_advantages
from rewarddance.objectives.kl import step_kl
from rewarddance.objectives.sde import SdeNoise
two, rows = torch.zeros(2), torch.zeros(2, 4)
"""

_REWARDS = """
from rewarddance.training.alignment_start import start_alignment
from rewarddance.training.reward_signal import RewardSignal, ScorerReward
from types import SimpleNamespace
config = SimpleNamespace(makes_references=False)
"""

_REFERENCES = """
import torch
from rewarddance.training.reward_normalisation import Normalisation
from rewarddance.training.reward_references import ReferenceUse, reference_pixels, required_references
"""

CALLS = {
    "a mapping for the guard's config": (
        "from rewarddance.training.guard import Guard\nGuard({'smoothing': 2}, {'any': len})",
        "UsageError: dict is no GuardConfig; GuardConfig(**settings) makes one of a mapping",
    ),
    "a mapping for a run of alignment": (
        "from rewarddance.training.alignment import align\nalign({'out': 'runs/any'})",
        "UsageError: dict is no AlignConfig; AlignConfig(**settings) makes one of a mapping",
    ),
    "a mapping for a run of learning": (
        "from rewarddance.training.reward_model import train_reward_model\ntrain_reward_model({'out': 'runs/any'})",
        "UsageError: dict is no TrainConfig; TrainConfig(**settings) makes one of a mapping",
    ),
    "one reference for a list": (
        _REFERENCES + "required_references(['a'], [torch.rand(3, 8, 8)], 'own')",
        "UsageError: the prompt 'a' has one reference image as it is; give a list of them, if of one",
    ),
    "an array as a reference": (
        _REFERENCES + "reference_pixels(torch.rand(8, 8, 3).numpy())",
        "UsageError: ndarray is no image or clip; give a path, the bytes of a file, or a PIL image",
    ),
    "a way to combine": (
        _REFERENCES + "ReferenceUse('max')",
        "UsageError: there is no way to combine named 'max'; choose one of mean, random, soft_min, together",
    ),
    "what is normalised over": (
        _REFERENCES + "Normalisation('group')",
        "UsageError: there is no normalisation over 'group'; choose one of running, batch",
    ),
    "a function among rewards": (
        _REWARDS + "RewardSignal([len])",
        "UsageError: builtin_function_or_method is no reward",
    ),
    "a reward without its signal": (
        _REWARDS + "start_alignment(config, None, ScorerReward('own', len), *[None] * 5, False)",
        "UsageError: ScorerReward is no reward yet; make one with RewardSignal([ScorerReward(name, function)])",
    ),
    "a table of ratios": (
        _OBJECTIVES + "clipped_ratio_loss(two[:, None], two[:, None], two, 0.2)",
        "UsageError: advantages has shape (2,) where (2, 1) is due, one a sample",
    ),
    "old log-probabilities in a column": (
        _OBJECTIVES + "clipped_ratio_loss(two, two[:, None], two, 0.2)",
        "UsageError: old_log_probs has shape (2, 1) where (2,) is due, one a sample",
    ),
    "weights in a column": (
        _OBJECTIVES + "forward_process_loss(rows, rows, rows, rows, torch.tensor(0.5), two[:, None])",
        "UsageError: good has shape (2, 1) where (2,) is due, one a sample",
    ),
    "a spread": (
        _OBJECTIVES + "group_advantages(rows, 0.1, 'batch')",
        "UsageError: advantages want rewards (groups, members), a floor above 0 and a spread of group or global;",
    ),
    "rewards without groups": (
        _OBJECTIVES + "group_advantages(two, 0.1)",
        "UsageError: advantages want rewards (groups, members)",
    ),
    "a reduction": (
        _OBJECTIVES + "step_kl(rows, rows, torch.ones(2), 'none')",
        "UsageError: there is no reduction 'none'; choose one of mean, sum",
    ),
    "a noise schedule": (
        _OBJECTIVES + "SdeNoise('vp')",
        "UsageError: there is no noise schedule 'vp'; choose one of flow, dance, cps",
    ),
    "an array as an image": (
        _MEDIA + "load_image(np.zeros((4, 4, 3), np.uint8))",
        "UsageError: ndarray is no image or clip; give a path, the bytes of a file, or a PIL image",
    ),
    "an open file": (_MEDIA + "load_image(io.BytesIO(b''))", "UsageError: BytesIO is no image or clip; give a path"),
    "nothing as an image": (_MEDIA + "load_image(None)", "UsageError: NoneType is no image or clip; give a path"),
    "an order mode": (
        _JUDGING + "judge_requests(None, [], 'both')",
        "UsageError: there is no order mode 'both'; choose one of two, one",
    ),
    "a reference mode": (
        _JUDGING + "judge_requests(None, [], reference_mode='all')",
        "UsageError: there is no reference mode 'all'; choose one of one_by_one, together",
    ),
    "requests that are used up": (
        "from rewarddance.rewards.pairwise import PairwiseModel\n"
        "from rewarddance.core.types import JudgementRequest\n"
        "PairwiseModel.judge(None, (one for one in [JudgementRequest('a', 'one.png')]))",
        "UsageError: a pairwise model judges against a reference image",
    ),
    "one text for prompts": (
        "from rewarddance.rewards.pixel_reward import pixel_reward\npixel_reward(None, [0], 'a')",
        "UsageError: prompts is one text; give a list with one prompt a picture",
    ),
    "no text as a prompt": (
        "from rewarddance.rewards.pixel_reward import pixel_reward\npixel_reward(None, [0], [None])",
        "UsageError: the prompt is NoneType and no text; give a string",
    ),
    "half a character": (
        "from rewarddance.rewards.pixel_reward import pixel_reward\npixel_reward(None, [0], ['\\ud800'])",
        "UsageError: the prompt holds half a character; correct it",
    ),
    "a step between steps": (
        _GUARD + "check(0.5, None)",
        "UsageError: The guard counts optimizer steps, and 0.5",
    ),
    "no distance": (_GUARD + "check(0, float('nan'))", "UsageError: The distance to the reference policy is nan."),
    "distances": (_GUARD + "check(0, torch.rand(2))", "UsageError: The distance to the reference policy is tensor("),
    "bytes as pixels": (
        _PIXELS + "refuse((batch * 255).to(torch.uint8))",
        "UsageError: pixels of torch.uint8 may mean",
    ),
    "an array as pixels": (_PIXELS + "refuse(batch.numpy())", "UsageError: pixels of type ndarray are no tensor; give"),
    "channels last": (
        _PIXELS + "refuse(batch.permute(0, 2, 3, 1))",
        "UsageError: pixels of shape (2, 8, 8, 3) are no RGB pictures; channels stand before height and width; give",
    ),
    "one channel": (_PIXELS + "refuse(batch[:, :1])", "UsageError: pixels of shape (2, 1, 8, 8) are no RGB pictures;"),
    "one picture": (_PIXELS + "refuse(batch[0])", "UsageError: pixels of shape (3, 8, 8) are no RGB pictures; give"),
    "way": (
        "from rewarddance.search.verification import Verifier\nVerifier(None, 'tournament')",
        "UsageError: there is no way to verify named 'tournament'; choose one of score, round_robin, knock_out",
    ),
    "potential": (
        "from rewarddance.search.particles import ParticleSettings\nParticleSettings(potential='product')",
        "UsageError: there is no potential 'product'; choose one of difference, max, sum",
    ),
}


@pytest.fixture(scope="module")
def endings():
    """How every call ended, in one process without the checks that tests run under."""
    calls = {name: code for name, (code, _) in CALLS.items()}
    run = subprocess.run(
        [sys.executable, "-c", _RUNNER], input=json.dumps(calls), capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_argument_is_refused_in_one_line(endings, name: str):
    expected = CALLS[name][1]
    assert endings[name].startswith(expected)
    assert "\n" not in endings[name]
