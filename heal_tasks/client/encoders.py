"""Encoders of generations from their files. Importing this module loads torch."""

import threading

from heal_tasks.client.client import Encode
from heal_tasks.client.following import Searchable
from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.models import api_model, tokenizer_folder
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.steps.vectors.encoders import TextEncoder, open_encoder
from heal_tasks.store.generations.search import Vector


def load_encoder(generation: Searchable, settings: Settings) -> tuple[TextEncoder, str]:
    """A generation's encoder, which has encoded a first text, and the folder of its tokenizer."""
    artifacts = artifact_store(settings)
    encoder = open_encoder(settings, artifacts, generation.model_uri, generation.model_sha256)
    encoder.encode(["warm up"], role="query")
    api = api_model(generation.model_uri)
    return encoder, tokenizer_folder(generation.model_uri) if api else artifacts.model_path(generation.model_uri)


def query_encoder(generation: Searchable, settings: Settings | None = None) -> Encode:
    """A function that gives the vector of a question; None: the settings of the environment."""
    encoder, _ = load_encoder(generation, settings or load_settings())
    one_at_a_time = threading.Lock()  # two threads may not use a tokenizer together

    def encode(text: str) -> Vector:
        with one_at_a_time:
            vector: Vector = encoder.encode([text], role="query")[0]
        return vector

    return encode
