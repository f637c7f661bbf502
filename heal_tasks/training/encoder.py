"""Encoders: load from files, turn texts into unit vectors, and identify by the hash of the files."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from torch import nn
from transformers.utils import logging as transformers_logging

from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import HealError, InputError, StepError
from heal_tasks.core.files import file_sha256
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.model_code import refuse_own_code
from heal_tasks.core.models import CARD, NO_OPTIONS, ModelOptions, Role, check_model_folder
from heal_tasks.core.prompts import own_prompt
from heal_tasks.core.types import Progress, silent
from heal_tasks.training.adapters import nf4_config
from heal_tasks.training.packed import PackedBert, packs

Dtype = Literal["auto", "float32", "bfloat16"]

CPU_BATCH_TOKENS = 1024
"""Tokens per forward pass. Larger passes spend an eighth of their CPU time in page faults, because the allocator
returns large buffers to the system (measured with glibc, 256 tokens per text)."""

PACKED_TOKENS = 2048
"""The packed pass keeps its buffers; in bfloat16 it is a seventh faster than with 1,024, and 4,096 bring nothing."""

GPU_BATCH_TOKENS = 1 << 16
"""Larger forward passes were no faster on an H200 (bfloat16, 256 tokens per text)."""

CPU_BATCH_SIZE, GPU_BATCH_SIZE = 64, 512

_MODEL_SUFFIXES = frozenset({".safetensors", ".bin", ".json", ".txt", ".model"})
_NOT_MODEL = frozenset({CARD, "_complete.json"})


def in_bf16(dtype: Dtype, device: str) -> bool:
    """True if a number format means bfloat16 on a device from ``pick_device``."""
    if dtype != "auto":
        return dtype == "bfloat16"
    # Emulation is slower than float32.
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@contextmanager
def limited_threads(threads: int | None) -> Iterator[None]:
    """Set the number of torch's threads inside the block; None leaves it unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_encoder(
    path: str | Path,
    *,
    device: str = "auto",
    dtype: Dtype = "float32",
    quantised: bool = False,
    sha256: str | None = None,
    options: ModelOptions = NO_OPTIONS,
) -> SentenceTransformer:
    """Load an encoder in evaluation mode from a folder that sentence-transformers saved; never from the network.

    Args:
        path: the folder.
        device: see ``pick_device``.
        dtype: of weights and computation; see ``in_bf16``.
        quantised: linear layers in 4-bit NF4, to train an adapter beside them.
        sha256: the hash that the files, with the options, must have; None: any.
        options: prompts and number of dimensions in place of the model's own. They become part of the model, so that
            it has them wherever it is saved.

    Raises:
        InputError: no encoder in the folder, files outside it, it has fewer dimensions than wanted, no such device, or
            it cannot hold a quantised encoder.
        StepError: the files have another hash.
    """
    folder = Path(path)
    check_model_folder(folder)
    refuse_own_code(folder)
    _check_modules(folder)
    if sha256 is not None and (found := options.identity(model_sha256(folder))) != sha256:
        raise StepError(
            f"the files of the model in {folder} have been changed since its vectors were made (sha256 {found[:12]}, "
            f"recorded is {sha256[:12]}); put the files back, from a backup of HEAL_ARTIFACTS_URI or of HEAL_MODEL; "
            "give another model a folder of its own"
        )
    place = pick_device(device)
    kwargs: dict[str, Any] = {"dtype": torch.bfloat16 if in_bf16(dtype, place) else torch.float32}
    if quantised:
        kwargs |= {"quantization_config": nf4_config(place), "device_map": {"": place}}
    # For all of the process: progress bars fill a task's log with control characters.
    transformers_logging.disable_progress_bar()
    model = SentenceTransformer(str(folder), device=place, local_files_only=True, model_kwargs=kwargs)
    for role in get_args(Role):
        set_prompt = options.prompt(role)
        own = own_prompt(model.prompts, model.default_prompt_name, role)
        model.prompts[role] = own if set_prompt is None else set_prompt
    if options.dimensions:
        _cut(model, options.dimensions, folder)
    for module in model:
        if type(module) is Dense:
            module.register_forward_pre_hook(_in_its_format)
    return model.eval()


def _in_its_format(module: Any, arguments: tuple[dict[str, torch.Tensor]]) -> None:
    """Bring a layer's input into the number format of its weights: token weights make float32 of bfloat16."""
    (features,) = arguments
    features[module.module_input_name] = features[module.module_input_name].to(module.linear.weight.dtype)


def _cut(model: SentenceTransformer, dimensions: int, folder: Path) -> None:
    """Let a model give the first ``dimensions`` of its vectors, in training as well.

    A matrix does it, because ``truncate_dim`` of sentence-transformers is neither in the forward pass nor saved.
    """
    own = model.get_embedding_dimension()
    if dimensions > own:
        raise InputError(f"HEAL_DIMENSIONS={dimensions} is more than the {own} of the model in {folder}; lower it")
    if dimensions < own:
        first = Dense(
            own, dimensions, bias=False, activation_function=nn.Identity(), init_weight=torch.eye(dimensions, own)
        )
        weight = next(weight for weight in model.parameters() if weight.is_floating_point())
        first.requires_grad_(False).to(weight.device, weight.dtype)
        model.insert(len(model) - (type(model[-1]) is Normalize), first)


def _check_modules(folder: Path) -> None:
    """Raise InputError if a folder holds no encoder, or if the parts of its model are elsewhere."""
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        parts, kinds = [str(item["path"]) for item in modules], [str(item["type"]) for item in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder} holds no encoder (modules.json is missing or damaged); give a sentence-transformers folder"
        ) from error
    for part in parts:
        if not (folder / part).resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"modules.json in {folder} names {part!r}, which is outside; give a folder with all its files"
            )
    if any(kind.endswith(".Router") for kind in kinds):
        raise InputError(
            f"{folder} has an encoder each for questions and documents (Router), which are not trained here; give one "
            "with the same encoder for both"
        )


def encode(
    model: SentenceTransformer,
    texts: Sequence[str],
    *,
    batch_size: int = 0,
    role: Role = "document",
    progress: Progress = silent,
    threads: int | None = None,
    bf16: bool = False,
) -> npt.NDArray[np.float32]:
    """Unit vectors of n texts, float32, shape (n, d).

    Each distinct text is computed once, longest first, so that a batch pads little; a plain BERT on a CPU pads nothing
    (``PackedBert``). A batch that does not fit into a GPU's memory, which shows at the start then, is halved.

    Args:
        model: from ``load_encoder``.
        texts: any number.
        batch_size: most texts per forward pass, and between two reports of progress; 0: ``CPU_BATCH_SIZE`` or
            ``GPU_BATCH_SIZE``. The tokens per pass are limited as well.
        role: chooses the prompt of models that were trained with different ones for questions and documents.
        progress: told after every batch how many distinct texts are done.
        threads: for torch; None for torch's default.
        bf16: compute in bfloat16 although the weights are float32.

    Raises:
        HealError: the model gives a vector that is not finite or has no direction.
    """
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    vectors = np.empty((len(distinct), model.get_embedding_dimension()), dtype=np.float32)
    compute = model.encode_query if role == "query" else model.encode_document
    prompt = model.prompts.get(role, "")
    packed = PackedBert(model, PACKED_TOKENS, torch.bfloat16 if bf16 else None) if packs(model) else None
    start = 0
    batch_size = batch_size or (CPU_BATCH_SIZE if model.device.type == "cpu" else GPU_BATCH_SIZE)
    with limited_threads(threads), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16 and packed is None):
        while start < len(distinct):
            batch = distinct[start : start + (batch_size if packed else _fitting(model, distinct[start], batch_size))]
            try:
                vectors[start : start + len(batch)] = (
                    packed.encode([prompt + text for text in batch])
                    if packed
                    else compute(batch, batch_size=batch_size, show_progress_bar=False)
                )
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                batch_size = len(batch) // 2
                continue
            start += len(batch)
            progress(start, len(distinct))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    bad = ~np.isfinite(lengths[:, 0]) | (lengths[:, 0] == 0)
    if bad.any():
        text = distinct[int(np.argmax(bad))]
        raise HealError(f"the encoder gives no usable vector for {text[:80]!r}; its weights are damaged, load another")
    # Also where the model normalises: bfloat16 rounds the length by up to 0.4 %.
    vectors /= lengths
    position = {text: row for row, text in enumerate(distinct)}
    return vectors[[position[text] for text in texts]]


def _fitting(model: SentenceTransformer, longest: str, batch_size: int) -> int:
    """Number of texts per forward pass, at four characters per token."""
    most = CPU_BATCH_TOKENS if model.device.type == "cpu" else GPU_BATCH_TOKENS
    tokens = min(1 + len(longest) // 4, model.max_seq_length or len(longest) + 1)
    return min(batch_size, max(1, most // tokens))


class Encoder:
    """A loaded encoder with its number of threads; see ``load_encoder`` and ``encode``."""

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        dtype: Dtype = "float32",
        sha256: str | None = None,
        options: ModelOptions = NO_OPTIONS,
    ) -> None:
        self._model = load_encoder(path, device=device, dtype=dtype, sha256=sha256, options=options)
        self._threads = threads

    def encode(
        self, texts: Sequence[str], *, role: Role = "document", progress: Progress = silent
    ) -> npt.NDArray[np.float32]:
        """Unit vectors of texts, float32, shape (n, d)."""
        return encode(self._model, texts, role=role, progress=progress, threads=self._threads)


def model_sha256(folder: str | Path) -> str:
    """Hash of an encoder's weights, configuration and vocabulary; other files in the folder do not count.

    Raises:
        InputError: no encoder in the folder.
    """
    root = Path(folder)
    files = sorted(path for path in root.rglob("*") if path.suffix in _MODEL_SUFFIXES and path.name not in _NOT_MODEL)
    if root / "modules.json" not in files:
        raise InputError(f"{root} holds no encoder (modules.json is missing); give a sentence-transformers folder")
    parts = []
    for path in files:
        parts += [path.relative_to(root).as_posix(), file_sha256(path)]
    return sha256_hex(*parts)
