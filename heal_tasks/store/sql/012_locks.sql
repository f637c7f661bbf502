-- Locks of the pipeline are locks of tables, on which readers have no rights: every user of a database may take an advisory lock.

CREATE TABLE heal.lock_corpus ();
COMMENT ON TABLE heal.lock_corpus IS
    'Locked in SHARE mode by transactions that write vectors, and in EXCLUSIVE mode by those that delete chunks or drop their tables.';

CREATE TABLE heal.lock_activate ();
COMMENT ON TABLE heal.lock_activate IS 'Locked by a switch of generations.';

CREATE TABLE heal.lock_space ();
COMMENT ON TABLE heal.lock_space IS 'Locked while a space and its tables are made.';

CREATE TABLE heal.lock_spend_limit ();
COMMENT ON TABLE heal.lock_spend_limit IS 'Locked while money is reserved for calls of a language model.';

CREATE TABLE heal.lock_llm_batch (batch_key text PRIMARY KEY);
COMMENT ON TABLE heal.lock_llm_batch IS
    'A task that works on a batch has inserted its key in a transaction that is never committed, so this table has no rows to read.';

-- An endpoint may have been stored with its user and password.
UPDATE heal.llm_batch SET endpoint = regexp_replace(endpoint, '://[^/]*@', '://***@') WHERE endpoint LIKE '%@%';
UPDATE heal.llm_batch_row SET endpoint = regexp_replace(endpoint, '://[^/]*@', '://***@') WHERE endpoint LIKE '%@%';
