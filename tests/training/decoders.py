"""Decoder models of the architectures that 7B embedding models have, small and with random weights."""

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaModel, MistralConfig, MistralModel, PreTrainedTokenizerFast

ARCHITECTURES = {"mistral": (MistralConfig, MistralModel), "llama": (LlamaConfig, LlamaModel)}


def tiny_decoder(architecture: str, folder: Path) -> Path:
    """A two-layer decoder with random weights, last-token pooling and left padding."""
    words = ["[PAD]", "[UNK]", *(f"{language}{number}" for language in "qdn" for number in range(24))]
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", padding_side="left"
    ).save_pretrained(folder / "parts")
    torch.manual_seed(0)
    make_config, make_model = ARCHITECTURES[architecture]
    config = make_config(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64,
    )  # fmt: skip
    make_model(config).save_pretrained(folder / "parts")
    parts = [Transformer(str(folder / "parts"), max_seq_length=48), Pooling(32, "lasttoken"), Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"
