"""Bridges: linear maps of query vectors from one space to another, for clients that keep an earlier encoder."""
