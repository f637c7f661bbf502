"""Bridges: linear maps from the query vectors of one space to those of another, for clients that keep an old encoder."""
