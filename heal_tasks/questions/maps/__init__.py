"""Entity maps: the facts of a text as entities, attributes and relations."""
