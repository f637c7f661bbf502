"""The lexicon: one vector per word stem of a corpus, fitted so that the stems of a text point where the text is."""
