"""The HEAL loss, the own-document term, batch sampling and the training loop."""
