"""Readers of office files and other containers; each turns the bytes of one file into Markdown."""
