"""Tiny models with random weights, built as the published ones of a family are: architecture, pooling, prompts."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    Gemma3TextConfig,
    Gemma3TextModel,
    GteConfig,
    GteModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    NomicBertConfig,
    NomicBertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

WORDS = [f"{language}{number}" for language in "qdn" for number in range(24)]
PROMPT_WORDS = ["query", "passage", "search", "represent", "this", "sentence", ":", "_", "document"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
MAX_TOKENS = 40
SEARCH = "represent this sentence : "


@dataclass(frozen=True)
class Family:
    """How a family's models are built."""

    config: type
    model: type
    pooling: str = "mean"
    special: tuple[str, str] = ("[CLS]", "[SEP]")  # around every text
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    normalise: bool = True
    dense: int = 0  # dimensions of a last linear layer
    sizes: dict[str, Any] = field(default_factory=dict)
    saved_as: torch.dtype = torch.float32
    packed: bool = False  # by PackedBert


FAMILIES = {
    "e5": Family(BertConfig, BertModel, packed=True),
    "bge": Family(BertConfig, BertModel, "cls", packed=True),
    "gte": Family(BertConfig, BertModel, normalise=False, saved_as=torch.float16, packed=True),
    "arctic": Family(BertConfig, BertModel, "cls", prompts={"query": SEARCH}, packed=True),
    "leaf": Family(BertConfig, BertModel, prompts={"query": SEARCH}, dense=48, packed=True),
    "passage prompt": Family(
        BertConfig, BertModel, prompts={"query": "query : ", "passage": "passage : "}, packed=True
    ),
    "default prompt": Family(BertConfig, BertModel, prompts={"search": SEARCH}, default_prompt="search", packed=True),
    "granite r2": Family(ModernBertConfig, ModernBertModel, "cls", sizes={"local_attention": 8}),
    "multilingual e5": Family(XLMRobertaConfig, XLMRobertaModel, special=("<s>", "</s>")),
    "bge-m3": Family(XLMRobertaConfig, XLMRobertaModel, "cls", special=("<s>", "</s>")),
    "arctic l v2": Family(
        XLMRobertaConfig, XLMRobertaModel, "cls", special=("<s>", "</s>"), prompts={"query": "query : "}
    ),
    "mpnet": Family(MPNetConfig, MPNetModel, special=("<s>", "</s>")),
    "nomic": Family(NomicBertConfig, NomicBertModel),
    "new gte": Family(GteConfig, GteModel, "cls", sizes={"type_vocab_size": 2}),
    "qwen3": Family(
        Qwen3Config, Qwen3Model, "lasttoken", special=("", "<eos>"), prompts={"query": SEARCH, "document": ""},
        sizes={"num_key_value_heads": 1, "head_dim": 16}, saved_as=torch.bfloat16,
    ),
    "embeddinggemma": Family(
        Gemma3TextConfig, Gemma3TextModel, special=("<bos>", "<eos>"), dense=48,
        prompts={"query": "search query : ", "document": "document : ", "Clustering": "this : "},
        sizes={
            "num_key_value_heads": 1, "head_dim": 16, "use_bidirectional_attention": True, "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
}  # fmt: skip


def write_family(name: str, folder: Path) -> Path:
    """Folder of a model of a family as sentence-transformers saves it."""
    family = FAMILIES[name]
    beginning, end = family.special
    vocabulary = ["[PAD]", "[UNK]", beginning or "<bos>", end, *WORDS, *PROMPT_WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: row for row, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(word, vocabulary.index(word)) for word in family.special if word]
    tokenizer.post_processor = processors.TemplateProcessing(f"{beginning} $A {end}".strip(), None, special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", bos_token=vocabulary[2], eos_token=end,
        padding_side="right" if beginning else "left", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
    torch.manual_seed(0)
    config = family.config(vocab_size=len(vocabulary), max_position_embeddings=64, **SIZES, **ids, **family.sizes)
    model = family.model(config)
    with torch.no_grad():
        for weight in model.parameters():  # a new model's biases are zero, which would hide errors with them
            weight.add_(0.1 * torch.randn_like(weight))
    plain = folder / "plain"
    model.to(family.saved_as).save_pretrained(plain)
    fast.save_pretrained(plain)
    parts: list[Any] = [Transformer(str(plain), max_seq_length=MAX_TOKENS), Pooling(32, family.pooling)]
    if family.dense:
        parts.append(Dense(32, family.dense, bias=False, activation_function=torch.nn.Identity()))
    parts += [Normalize()] if family.normalise else []
    whole = SentenceTransformer(modules=parts, device="cpu", prompts=family.prompts)
    whole.default_prompt_name = family.default_prompt
    target = folder / "model"
    whole.save_pretrained(str(target), create_model_card=False)
    file = target / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prompts": family.prompts}))  # as older releases did
    return target
