"""Settings, types, errors, ids, manifests, artifacts, logging: the floor every room stands on."""
