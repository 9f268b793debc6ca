from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0

from rewarddance.generators.sd3_attention import PictureQueries, leave_out_unread_queries
from tests.generators.conftest import FolderOf

TOKENS, SIDE = 11, 8


def _network(folder_of: FolderOf, qk_norm: str | None) -> Any:
    torch.manual_seed(0)
    config = diffusers.SD3Transformer2DModel.load_config(folder_of("sd3") / "transformer")
    network = diffusers.SD3Transformer2DModel.from_config({**config, "num_layers": 3, "qk_norm": qk_norm})
    for value in network.parameters():
        torch.nn.init.normal_(value, std=0.2)
    return network


def _answer(network: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """What it predicts, and the gradient by every parameter, zeros where there is none."""
    rng = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=rng)  # noqa: E731
    config = network.config
    network.zero_grad(set_to_none=True)
    predicted = network(
        hidden_states=draw(2, config.in_channels, SIDE, SIDE),
        timestep=torch.tensor([100.0, 900.0]),
        encoder_hidden_states=draw(2, TOKENS, config.joint_attention_dim),
        pooled_projections=draw(2, config.pooled_projection_dim),
        return_dict=False,
    )[0]
    predicted.square().mean().backward()
    named = network.named_parameters()
    return predicted.detach(), {
        name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in named
    }


@pytest.mark.parametrize("qk_norm", ["rms_norm", None])
def test_what_nobody_reads_is_left_out_and_nothing_changes(folder_of: FolderOf, qk_norm: str | None):
    network = _network(folder_of, qk_norm)
    expected, slopes = _answer(network)
    leave_out_unread_queries(network)
    found, found_slopes = _answer(network)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for name, slope in slopes.items():
        torch.testing.assert_close(found_slopes[name], slope, rtol=1e-4, atol=1e-6, msg=name)


def test_only_the_last_joint_block_asks_less(folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch):
    network = _network(folder_of, "rms_norm")
    leave_out_unread_queries(network)
    kinds = [type(block.attn.processor) for block in network.transformer_blocks]
    assert kinds == [JointAttnProcessor2_0, JointAttnProcessor2_0, PictureQueries]

    asked: list[int] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        asked.append(query.shape[2])
        return attend(query, *rest, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    _answer(network)
    patches = (SIDE // network.config.patch_size) ** 2
    assert asked == [patches + TOKENS, patches, patches + TOKENS, patches]


def test_a_processor_of_someone_else_stays(folder_of: FolderOf):
    network = _network(folder_of, None)
    own = type("Own", (JointAttnProcessor2_0,), {})()
    network.transformer_blocks[-1].attn.set_processor(own)
    leave_out_unread_queries(network)

    assert network.transformer_blocks[-1].attn.processor is own
