"""One file per pipeline step. ``engine/`` runs the steps; the other folders hold parts that several steps share."""
