"""TF-IDF, NMF, NMFk and HNMFk: a topic tree from texts, and new texts projected onto it."""
