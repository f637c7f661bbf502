import pytest

from heal_tasks.store.db import Connection
from tests.store.sample_store import SampleStore


@pytest.fixture
def store(auto: Connection) -> SampleStore:
    """A fresh database with helpers."""
    return SampleStore(auto)
