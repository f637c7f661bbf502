"""A cross-encoder that scores chunks as answers to questions: unlike the embedding model it reads both together."""

from collections.abc import Sequence

import torch
from sentence_transformers import CrossEncoder

from heal_tasks.core.devices import pick_device
from heal_tasks.core.errors import InputError


class CrossEncoderJudge:
    """Scores chunks as answers to questions; ``path`` is the folder of a cross-encoder with one output."""

    def __init__(self, path: str, *, device: str) -> None:
        try:
            self._model = CrossEncoder(path, device=pick_device(device), local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} holds no cross-encoder ({error}); give the folder of one") from error
        if self._model.num_labels != 1:
            raise InputError(
                f"{path} has {self._model.num_labels} outputs; give a cross-encoder with one, trained for ranking"
            )

    def scores(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Score pairs of question and chunk text, each in [0, 1]."""
        # Models differ in whether they apply the logistic function themselves.
        scores = self._model.predict(list(pairs), activation_fn=torch.nn.Sigmoid(), show_progress_bar=False)
        return [float(score) for score in scores]
