"""Questions, judgments, entity maps and answers."""
