"""The small Qwen vocabulary and language model of the flow model.

    python -m tools.builtin_model.flow_text --work work/emoji --template QWEN3_TOKENIZER_CONFIG

Writes `flow-tokenizer/`: byte-level BPE in which every word of the captions is one token with the space before it, and
Qwen3's chat template (from its `tokenizer_config.json`; without one, a template that says the same of
one user turn).
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from .drawings import TAUGHT_STYLES, load_subjects
from .images import COLOURS, GENERIC, phrase

WORDS = 2560  # rows of the table at most: bytes, merges and specials
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
PLACES = 32  # tokens of a caption in training, the template's among them
HEAD, TAIL = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
    "{%- endif %}"
)
SPLIT = (  # where Qwen2's tokenizer cuts text before it merges
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PLAIN = [
    "user",
    "assistant",
    "system",
    "photo",
    "image",
    "painting",
    "picture",
    "illustration",
    "drawing",
    "sketch",
    "art",
    "style",
    "icon",
    "emoji",
    "small",
    "large",
    "big",
    "tiny",
    "old",
    "new",
    "the",
    "one",
    "two",
    "three",
    "this",
    "that",
    "with",
    "and",
    "in",
    "of",
    "on",
    "at",
    "by",
    "for",
    "from",
    "to",
    "its",
    "is",
    "are",
    "my",
    "your",
    "some",
    "many",
    "very",
    "cute",
    "simple",
    "plain",
    "close",
    "up",
    "front",
    "side",
    "view",
    "light",
    "dark",
    "bright",
    "colour",
    "color",
    "colours",
    "background",
    "word",
    "words",
    "thing",
    "object",
]
SPREAD = 0.5  # of the first embeddings: above the noise that training adds to them


def corpus() -> list[str]:
    """Words as captions use them, often enough for each to become one token."""
    taught = [s for s in load_subjects() if s.split == "taught"]
    frames = [phrase("a", style, colour, form) for style in TAUGHT_STYLES for colour in COLOURS for form in range(6)]
    words = {word for s in taught for word in f"{s.name} {s.category}".split()}
    common = {word for frame in frames for word in frame.replace(",", " ").split()} | {*PLAIN, *GENERIC, "an"}
    return [f" {word}" for word in sorted(words | common)] * 20 + sorted(common) * 5 + frames


def train_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """-> (token -> id, merges). The specials come after all tokens, as Qwen's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS - len(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def write_tokenizer(work: Path, template: str) -> Path:
    vocabulary, merges = train_vocabulary()
    tokenizer = Qwen2Tokenizer(vocabulary, merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    tokenizer.model_max_length = 512
    folder = work / "flow-tokenizer"
    tokenizer.save_pretrained(folder)
    return folder


def load_tokenizer(folder: Path) -> Qwen2Tokenizer:
    return Qwen2Tokenizer.from_pretrained(folder)


def make_language_model(tokenizer: Qwen2Tokenizer) -> Qwen3Model:
    """Width 256, 3 blocks that are read and one that is not: Z-Image reads what goes into the last block.

    That one is zeros and stays so.
    """
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=2048, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen3Model(config)
    for weight in model.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    nn.init.normal_(model.get_input_embeddings().weight, std=SPREAD)
    for weight in (*model.layers[-1].parameters(), *model.norm.parameters()):
        nn.init.zeros_(weight.requires_grad_(False))
    return model


def read(model: Qwen3Model, words: torch.Tensor) -> torch.Tensor:
    """`hidden_states[-2]` of token embeddings [B,L,W] with padding on the right, without running the last block."""
    places = torch.arange(words.shape[1], device=words.device)[None]
    turns = model.rotary_emb(words, places)
    for block in model.layers[:-1]:
        words = block(words, attention_mask=None, position_ids=places, position_embeddings=turns)
    return words


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/emoji"))
    parser.add_argument("--template", type=Path, help="a tokenizer_config.json of Qwen3")
    args = parser.parse_args()
    chat = json.loads(args.template.read_text())["chat_template"] if args.template else TEMPLATE
    print(write_tokenizer(args.work, chat))
