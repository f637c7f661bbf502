"""Keeps the vectors in a Postgres/pgvector store aligned with its owner's documents: HNMFk, HEAL, NUDGE."""

__version__ = "0.1.0"
