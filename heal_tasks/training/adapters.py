"""LoRA and QLoRA: small trained matrices beside frozen weights, merged into plain weights at the end.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds B A alpha / r to each linear layer; QLoRA (Dettmers et al. 2023, arXiv
2305.14314) keeps the frozen weights in 4-bit NF4 during training.
"""

from importlib.util import find_spec

import torch
from peft import LoraConfig, get_peft_model
from sentence_transformers import SentenceTransformer
from transformers import BitsAndBytesConfig

from heal_tasks.core.errors import InputError

LORA_SCALE = 2
"""alpha / r; a fixed ratio keeps the learning rate good for every rank."""


def add_adapter(model: SentenceTransformer, *, rank: int, seed: int, share: float = 1.0) -> None:
    """Freeze all weights and add a trainable adapter to every linear layer, in place.

    Args:
        model: its vectors stay the same until the adapter is trained.
        rank: r.
        seed: of the matrices A; B starts at zero.
        share: of the adapter's output that is added to the layer's.
    """
    model.requires_grad_(False)  # of other modules, too: a checkpoint has the adapter's matrices alone
    plain = model[0].model
    # BERT's pooler is a linear layer too, but sentence vectors do not pass through it.
    unused = r"pooler\..*" if hasattr(plain, "pooler") else None
    alpha = LORA_SCALE * rank * share
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", exclude_modules=unused)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model[0].model = get_peft_model(plain, config)


def nf4_config(device: str) -> BitsAndBytesConfig:
    """The configuration of linear layers in 4-bit NF4 with double quantisation, computing in bfloat16.

    Raises:
        InputError: not a CUDA device, or bitsandbytes is not installed.
    """
    # bitsandbytes has a CPU path, but it repacks weights while encoding, after which nothing can be trained.
    if not device.startswith("cuda"):
        raise InputError(f"qlora needs a CUDA device, and this is {device!r}; use lora, or train on a GPU")
    if find_spec("bitsandbytes") is None:
        raise InputError("qlora needs the package bitsandbytes; install requirements-qlora.txt, or use lora")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
