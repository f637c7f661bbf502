import sys
from pathlib import Path

import pytest

from heal_tasks.store.db import Connection

sys.path.insert(0, str(Path(__file__).parent))

from spaces import Space


@pytest.fixture
def space(auto: Connection) -> Space:
    """A fresh database with helpers."""
    return Space(auto)
