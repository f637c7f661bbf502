"""Postgres and pgvector: schema, COPY, repositories, generations, search."""
