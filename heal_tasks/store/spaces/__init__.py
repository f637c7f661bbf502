"""Encoder spaces: one per encoder, topped up, never copied."""
