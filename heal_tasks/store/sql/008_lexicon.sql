-- The lexicon of a generation: one vector per word stem, with which SQL alone makes the vector of a question.
-- Its table, lex_gNNNNNN, is made by heal_tasks.store.generations.

ALTER TABLE heal.generation ADD COLUMN lexicon jsonb CHECK (jsonb_typeof(lexicon) = 'object');
COMMENT ON COLUMN heal.generation.lexicon IS
    'How the lexicon was fitted and how it is used (heal_tasks.lexicon.record.LexiconRecord): ridge, question_weight, by_people, '
    'lexicon_weight, words_weight, chunks, relevance. null: no lexicon was fitted.';
COMMENT ON TABLE heal.generation IS
    'One row per generation: vectors of a space, moved by questions or not, served with the topics of a topic run. '
    'Table vec_gNNNNNN holds the served rows; lex_gNNNNNN the lexicon; push_gNNNNNN the contrastive displacements of rows, if the '
    'record has any.';
