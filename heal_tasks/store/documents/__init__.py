"""Documents, their chunks and topics."""
