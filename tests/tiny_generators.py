"""Tiny random-weight pipelines of the generator families, saved to a folder in diffusers' layout."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from rewarddance.generators.adapter_file import LowRankUpdate, write_adapter

GeneratorFamily = Literal["sd3", "flux", "flux_schnell", "qwen_image", "wan"]

GENERATOR_FAMILIES: tuple[GeneratorFamily, ...] = ("sd3", "flux", "qwen_image")
"""Families that make pictures; `wan` makes clips."""

TINY_SIZE = 32
"""Height and width of a tiny picture, in pixels: 8 by 8 latents, 4 by 4 tokens."""

SENTENCES = (
    "a red square left of two blue circles and a green triangle",
    "a photo of a dog, a cat and a bird in the rain at night",
    "three yellow stars above one purple hexagon",
)
# What Qwen-Image says before and after a prompt, without the special tokens between. The pipeline drops the first 34
# tokens whatever the tokenizer, so the words before the prompt must come to exactly that many.
QWEN_TEMPLATE = (
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships "
    "of the objects and background:",
    "user\n",
    "assistant\n",
)
_CLIP_END = "</w>"
_TEXT_WIDTH = 32


def tiny_generator_folder(family: GeneratorFamily, folder: Path, seed: int = 0) -> Path:
    """Write a tiny pipeline of a family to a folder, the same for the same seed; it makes pictures of `TINY_SIZE`.

    `flux_schnell` is FLUX without embedded guidance.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = _BUILDERS[family]()
        _spread(module for module in pipeline.components.values() if isinstance(module, torch.nn.Module))
        pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_adapter_folder(generator: Path, folder: Path) -> Path:
    """Write an adapter of every attention layer of a tiny pipeline; it moves all pictures."""
    shapes = load_file(next((generator / "transformer").glob("*.safetensors")))
    rng = torch.Generator().manual_seed(0)
    stage = {
        name.removesuffix(".weight"): LowRankUpdate(
            torch.randn((2, value.shape[1]), generator=rng), torch.randn((len(value), 2), generator=rng)
        )
        for name, value in shapes.items()
        if name.endswith((".to_q.weight", ".to_v.weight"))
    }
    folder.mkdir(parents=True)
    write_adapter(folder, [stage], {"r": 2})
    return folder


def _sd3() -> Any:
    tokenizer = _clip_tokenizer()
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=_TEXT_WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            out_channels=4,
            pos_embed_max_size=16,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(_clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(tokenizer)),
        tokenizer_2=_clip_tokenizer(),
        text_encoder_3=_t5_encoder(),
        tokenizer_3=_t5_tokenizer(),
    )


def _flux(guidance_embeds: bool = True) -> Any:
    tokenizer = _clip_tokenizer()
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(_clip_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=_t5_encoder(),
        tokenizer_2=_t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=_TEXT_WIDTH,
            pooled_projection_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(2, 2, 4),
        ),
    )


def _flux_schnell() -> Any:
    return _flux(guidance_embeds=False)


def _qwen_image() -> Any:
    tokenizer = _qwen_tokenizer()
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 2],
            num_res_blocks=1,
            temperal_downsample=[False, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.2, 0.8, 1.5, 1.0],
        ),
        text_encoder=_qwen_encoder(tokenizer),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=_TEXT_WIDTH,
            axes_dims_rope=(2, 2, 4),
        ),
    )


def _wan() -> Any:
    return WanPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 2],
            num_res_blocks=1,
            latents_mean=[0.1, -0.2, 0.3, 0.0],
            latents_std=[1.2, 0.8, 1.5, 1.0],
        ),
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=len(_t5_tokenizer()), d_model=_TEXT_WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=2)
        ),
        tokenizer=_t5_tokenizer(),
        transformer=WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=_TEXT_WIDTH,
            freq_dim=16,
            ffn_dim=48,
            num_layers=2,
            rope_max_seq_len=64,
        ),
    )


def _vae(scaling_factor: float, shift_factor: float) -> Any:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=TINY_SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
    )


def _clip_config(tokenizer: Any) -> Any:
    return CLIPTextConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=16,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5_encoder() -> Any:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(_t5_tokenizer()),
            d_model=_TEXT_WIDTH,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )


def _qwen_encoder(tokenizer: Any) -> Any:
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "hidden_size": _TEXT_WIDTH,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "intermediate_size": 64,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": 2048,
                "pad_token_id": tokenizer.pad_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "bos_token_id": tokenizer.pad_token_id,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 4]},
            },
            vision_config={
                "depth": 1,
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_heads": 2,
                "out_hidden_size": _TEXT_WIDTH,
                "fullatt_block_indexes": [0],
            },
        )
    )


def _clip_tokenizer() -> Any:
    pieces = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    words = [list(piece) for text in SENTENCES for piece, _ in pieces.pre_tokenize_str(text)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _merges([[*word[:-1], word[-1] + _CLIP_END] for word in words])
    vocabulary = _vocabulary([*letters, *(letter + _CLIP_END for letter in letters)], merges)
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def _t5_tokenizer() -> Any:
    words = Counter(word for sentence in SENTENCES for word in sentence.split())
    pieces = [(f"▁{word}", -1.0 / count) for word, count in sorted(words.items())]
    # Words that are not in the sentences are spelt.
    letters = [(chr(code), -10.0) for code in range(33, 127)]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5TokenizerFast(vocab=[*specials, *pieces, *letters], extra_ids=0, model_max_length=512)


def _qwen_tokenizer() -> Any:
    pieces = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    words = [list(piece) for text in (*QWEN_TEMPLATE, *SENTENCES) for piece, _ in pieces.pre_tokenize_str(text)]
    merges = _merges(words)
    vocabulary = _vocabulary(sorted(pre_tokenizers.ByteLevel.alphabet()), merges)
    for special in ("<|endoftext|>", "<|im_start|>", "<|im_end|>"):
        vocabulary[special] = len(vocabulary)
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=4096,
    )


def _merges(words: Iterable[list[str]]) -> list[tuple[str, str]]:
    """Merges that make each word a single token; tokenizers' own trainer orders ties differently every time."""
    ranks: dict[tuple[str, str], int] = {}
    for word in words:
        symbols = list(word)
        while len(symbols) > 1:
            pairs = list(itertools.pairwise(symbols))
            place = min(range(len(pairs)), key=lambda index: ranks.get(pairs[index], len(ranks)))
            ranks.setdefault(pairs[place], len(ranks))
            symbols[place : place + 2] = ["".join(pairs[place])]
    return list(ranks)


def _vocabulary(letters: list[str], merges: list[tuple[str, str]]) -> dict[str, int]:
    tokens = dict.fromkeys([*letters, *("".join(pair) for pair in merges)])
    return {token: number for number, token in enumerate(tokens)}


def _spread(modules: Iterable[torch.nn.Module]) -> None:
    """Move every weight a little: fresh networks hardly depend on prompt, guidance or position."""
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)


_BUILDERS: dict[GeneratorFamily, Callable[[], Any]] = {
    "sd3": _sd3,
    "flux": _flux,
    "flux_schnell": _flux_schnell,
    "qwen_image": _qwen_image,
    "wan": _wan,
}
