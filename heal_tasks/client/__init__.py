"""Search from Python: ``Client`` follows every switch of generations. Search by text needs psycopg and nothing else."""

from heal_tasks.client.client import Client

__all__ = ["Client"]
