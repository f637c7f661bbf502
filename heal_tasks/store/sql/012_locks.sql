-- Locks of the pipeline. Every user of a database may take an advisory lock; these can be locked only by those who may write into
-- the schema. They are views because VACUUM of a whole database would wait for a locked table.

CREATE VIEW heal.lock_corpus AS SELECT 1 AS locked;
COMMENT ON VIEW heal.lock_corpus IS
    'Never read, only locked: in SHARE mode by transactions that write vectors, in EXCLUSIVE mode by those that delete chunks or drop '
    'tables of vectors.';

CREATE VIEW heal.lock_activate AS SELECT 1 AS locked;
COMMENT ON VIEW heal.lock_activate IS 'Never read, only locked: by a switch of generations.';

CREATE VIEW heal.lock_space AS SELECT 1 AS locked;
COMMENT ON VIEW heal.lock_space IS 'Never read, only locked: while a space and its tables are made.';

CREATE VIEW heal.lock_spend_limit AS SELECT 1 AS locked;
COMMENT ON VIEW heal.lock_spend_limit IS 'Never read, only locked: while money is reserved for calls of a language model.';

CREATE TABLE heal.lock_llm_batch (batch_key text PRIMARY KEY);
COMMENT ON TABLE heal.lock_llm_batch IS
    'A task that works on a batch has inserted its key in a transaction that is never committed, so this table has no rows to read.';

-- An endpoint may have been stored with its user and password.
UPDATE heal.llm_batch SET endpoint = regexp_replace(endpoint, '://[^/]*@', '://***@') WHERE endpoint LIKE '%@%';
UPDATE heal.llm_batch_row SET endpoint = regexp_replace(endpoint, '://[^/]*@', '://***@') WHERE endpoint LIKE '%@%';
