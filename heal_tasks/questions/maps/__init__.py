"""Entity maps: structured facts of a text."""
