"""Settings, types, errors, ids, manifests, artifacts and logging, for every package."""
