"""The ledger of language-model calls, reserved money and batches."""
