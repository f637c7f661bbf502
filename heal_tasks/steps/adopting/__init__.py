"""Adoption of a table that another application filled with texts and vectors."""
