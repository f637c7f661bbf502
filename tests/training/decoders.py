"""Decoders of the architectures of 7B embedding models, small and with random weights."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from bench.decoder import write_decoder


def tiny_decoder(architecture: str, folder: Path) -> Path:
    """A decoder with two layers that knows the words of the planted corpus."""
    words = ["[PAD]", "[UNK]", *(f"{language}{number}" for language in "qdn" for number in range(24))]
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", padding_side="left"
    )
    write_decoder(
        folder / "model", fast, architecture, max_tokens=48, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    return folder / "model"
