-- What the round trip and the cross-encoder found about questions, and which of them nobody learns from any more.

ALTER TABLE heal.question
    ADD COLUMN round_trip_rank integer CHECK (round_trip_rank > 0),
    ADD COLUMN cross_encoder text,
    ADD COLUMN cross_encoder_score real,
    ADD COLUMN dropped_by text CHECK (dropped_by IN ('round_trip', 'cross_encoder'));
COMMENT ON COLUMN heal.question.round_trip_rank IS
    'Place of the question''s own chunk among all chunks, by the vectors of the model it was checked with.';
COMMENT ON COLUMN heal.question.dropped_by IS
    'The filter that keeps a training question from being learnt from; null: it is in use.';
