"""Tables of other applications: what is known of them, and reading their rows and vectors."""
