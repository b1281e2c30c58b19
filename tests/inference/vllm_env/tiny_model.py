"""Write a tiny Qwen3-VL that a real vLLM serves with `--load-format dummy`: configuration and tokenizer, no weights.

    .venv-vllm/bin/python tiny_model.py OUTPUT_FOLDER

Everything is made here, nothing is fetched: the tokenizer is trained in seconds on the standard library's own
source files, and the weights are random at start. Architecture, special tokens, image placeholders and patch sizes
are Qwen3-VL's, so that vLLM takes the same code path (encoder, DeepStack, M-RoPE, prefix cache) as for a real one.
What it says is noise; how it is scheduled and measured is not.
"""

from __future__ import annotations

import json
import pathlib
import sys
import sysconfig

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 4096
CONTEXT_TOKENS = 32_768
HIDDEN = 128

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = [END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO]

# The shape of Qwen's own template: each turn between the two markers, each picture as one placeholder token that
# vLLM widens to as many as the picture has patches.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN_START}{{{{ message.role }}}}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content %}"
    f"{{% if 'image' in part.type %}}{VISION_START}{IMAGE}{VISION_END}"
    f"{{% elif 'video' in part.type %}}{VISION_START}{VIDEO}{VISION_END}"
    "{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}"
    f"{TURN_END}\n"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{TURN_START}assistant\n{{% endif %}}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen's special tokens, trained on source files that every Python has."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    corpus = [str(path) for path in sorted(library.glob("*.py"))[:60]]
    size = VOCABULARY - len(SPECIAL_TOKENS)
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=SPECIAL_TOKENS,
        model_max_length=CONTEXT_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def model_configuration(tokenizer: PreTrainedTokenizerFast) -> dict[str, object]:
    """Qwen3-VL's config.json with two layers of encoder and two of decoder: about a million parameters."""
    token = tokenizer.convert_tokens_to_ids
    text = {
        "model_type": "qwen3_vl_text",
        "dtype": "bfloat16",
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rope_theta": 5_000_000.0,
        # The three sections (time, height, width) add up to half the head: 12 + 10 + 10 = 64 / 2.
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [12, 10, 10]},
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
    }
    vision = {
        "model_type": "qwen3_vl",
        "depth": 2,
        "hidden_size": HIDDEN,
        "intermediate_size": 256,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [0],
        "hidden_act": "gelu_pytorch_tanh",
        "initializer_range": 0.02,
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "tie_word_embeddings": True,
        "image_token_id": token(IMAGE),
        "video_token_id": token(VIDEO),
        "vision_start_token_id": token(VISION_START),
        "vision_end_token_id": token(VISION_END),
        "text_config": text,
        "vision_config": vision,
    }


def processor_configuration(kind: str, processor: str) -> dict[str, object]:
    """preprocessor_config.json of a picture or a video: 32×32 pixels a token, from 64 up to 16,384 tokens."""
    return {
        kind: processor,
        "processor_class": "Qwen3VLProcessor",
        "size": {"shortest_edge": 64 * 32 * 32, "longest_edge": 16_384 * 32 * 32},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def main(output: pathlib.Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(output)
    pages = {
        "config.json": model_configuration(tokenizer),
        "preprocessor_config.json": processor_configuration("image_processor_type", "Qwen2VLImageProcessorFast"),
        "video_preprocessor_config.json": processor_configuration("video_processor_type", "Qwen3VLVideoProcessor"),
    }
    for name, page in pages.items():
        (output / name).write_text(json.dumps(page, indent=1) + "\n")
    sys.stdout.write(f"vllm-env: {output.name}, {len(tokenizer)} tokens in its vocabulary\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
