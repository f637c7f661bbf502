"""Ranking metrics, paired bootstrap and the promotion gate."""
