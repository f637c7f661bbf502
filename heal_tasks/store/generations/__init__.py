"""Generations: what is served, how it is indexed and searched."""
