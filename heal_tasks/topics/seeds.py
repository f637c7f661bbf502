"""Random seeds derived from the place of use, so that no draw depends on what was drawn before."""

import numpy as np

Seed = int | np.random.SeedSequence


def derive_seed(seed: Seed, *key: int) -> np.random.SeedSequence:
    """Derive an independent seed for the piece of work that the key names."""
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, *key))
