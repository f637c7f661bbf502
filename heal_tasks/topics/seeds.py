"""Random draws that are named by where they are used, never by what was drawn before."""

import numpy as np

Seed = int | np.random.SeedSequence


def derive_seed(seed: Seed, *key: int) -> np.random.SeedSequence:
    """An independent seed for a piece of work named by numbers, whatever was drawn elsewhere."""
    root = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    return np.random.SeedSequence(root.entropy, spawn_key=(*root.spawn_key, *key))
