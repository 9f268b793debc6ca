r"""A teacher that reasons before it answers, distilled into a student that answers at once.

The teacher's answer is not one number: it depends on the reasons that it happened to write. What is distilled is its
distribution over yes and no, averaged over several rationales and over both orders of showing, so that the student's
one token carries what reasoning is worth on average.

Source:
    Z-Reward, arXiv:2606.09076 (RISD): KL from the reasoning-conditioned score distribution of a large model to the
    one-token distribution of a small one. Temperature as in Hinton et al., arXiv:1503.02531.
    Differs: the distribution is a Bernoulli over yes and no instead of bins of a score.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from rewarddance.objectives.preference import in_full_precision


def mean_answer_log_odds(log_odds: Float[Tensor, "samples batch"]) -> Float[Tensor, " batch"]:
    r"""Log-odds of the mean probability of yes.

    $$z = \log\frac{\sum_s \sigma(z_s)}{\sum_s \sigma(-z_s)}$$

    Args:
        log_odds: Of yes, after each of several rationales to the same question; at least one.

    Returns:
        What sampling a rationale and then an answer gives: a few certain samples do not outvote many doubtful ones.
        Finite where the samples are, because probabilities near 0 or 1 are never formed.
    """
    precise = in_full_precision(log_odds)
    return functional.logsigmoid(precise).logsumexp(0) - functional.logsigmoid(-precise).logsumexp(0)


def answer_divergence(
    log_odds: Float[Tensor, " batch"], teacher_log_odds: Float[Tensor, " batch"], temperature: float = 1.0
) -> Float[Tensor, " batch"]:
    r"""How far the student's answer is from the teacher's.

    $$L = T^2\,\text{KL}\big(\sigma(z_\text{teacher}/T)\,\big\|\,\sigma(z/T)\big)$$

    Args:
        log_odds: Of the student, from one token.
        teacher_log_odds: Of the teacher; taken as data, without gradient.
        temperature: T above 0; higher softens both, so that a certain teacher's finer differences count.

    Returns:
        In nats, at least 0; 0 where the two agree. The gradient has the same scale at every temperature.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature}; it is above 0")
    student = in_full_precision(log_odds) / temperature
    teacher = in_full_precision(teacher_log_odds.detach()) / temperature
    yes = teacher.sigmoid() * (functional.logsigmoid(teacher) - functional.logsigmoid(student))
    no = (-teacher).sigmoid() * (functional.logsigmoid(-teacher) - functional.logsigmoid(-student))
    return temperature**2 * (yes + no)


def with_teacher(
    loss: Float[Tensor, " batch"],
    divergence: Float[Tensor, " batch"],
    is_known: Bool[Tensor, " batch"],
    teacher_weight: float,
) -> Float[Tensor, " batch"]:
    r"""The loss on people's choices, and the divergence from the teacher.

    $$(1-w)\,L + w\,L_\text{teacher}$$

    Args:
        loss: On the choices.
        divergence: From `answer_divergence`.
        is_known: Where the teacher gave an answer; elsewhere the choice alone counts, in full.
        teacher_weight: w in [0, 1].
    """
    return torch.where(is_known, (1.0 - teacher_weight) * loss + teacher_weight * divergence, loss)
