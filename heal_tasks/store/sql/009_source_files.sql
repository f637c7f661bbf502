-- Every file of every source with its state, so that what was refused is read again when the cause is gone; the weight of a rejection.

ALTER TABLE heal.source_file
    ADD COLUMN state text NOT NULL DEFAULT 'read' CHECK (state IN ('read', 'partly', 'refused', 'failed', 'skipped')),
    ADD COLUMN reason text NOT NULL DEFAULT '',
    ADD COLUMN decided_by text NOT NULL DEFAULT '';
UPDATE heal.source_file SET state = 'partly' WHERE NOT clean;
ALTER TABLE heal.source_file ALTER COLUMN state DROP DEFAULT, DROP COLUMN clean;
COMMENT ON TABLE heal.source_file IS
    'Every file of every source as last seen. A file that was read is not read again while its fingerprint (ETag, or size and '
    'modification time) stays. One that was read partly or refused is also read again when decided_by changes, one that failed always.';
COMMENT ON COLUMN heal.source_file.state IS
    'read: all records are stored. partly: some were refused. refused: all were. failed: it could not be read this time, and the next '
    'run tries again. skipped: not a kind of file that is read, or a link that leads away.';
COMMENT ON COLUMN heal.source_file.reason IS 'Why it is not read: the fault and the cure; empty for state read.';
COMMENT ON COLUMN heal.source_file.decided_by IS
    'The limits and the version of the parsers that decided about a file read partly or refused; empty if another file did, so that it '
    'is read again in every run.';

ALTER TABLE heal.quarantine
    ADD COLUMN records integer NOT NULL DEFAULT 1,
    ADD COLUMN mended_at timestamptz;
COMMENT ON COLUMN heal.quarantine.records IS 'Number of records lost with it, estimated for a file that cannot be read at all.';
COMMENT ON COLUMN heal.quarantine.mended_at IS 'When its file was next read without this fault, or was gone; null: it is still so.';

-- An entry of a B-tree holds about 2,700 bytes: source and path have up to 1,024 each, and a reason up to 1,200.
DELETE FROM heal.quarantine q USING heal.quarantine newer
WHERE (newer.source, newer.path, newer.line, left(newer.reason, 100)) = (q.source, q.path, q.line, left(q.reason, 100))
  AND newer.quarantine_id > q.quarantine_id;
ALTER TABLE heal.quarantine DROP CONSTRAINT quarantine_source_path_line_reason_key;
CREATE UNIQUE INDEX quarantine_place ON heal.quarantine (source, path, line, left(reason, 100));

-- Names are stored in Unicode's form NFC: files with others are read again, and their documents move to the new spelling.
DO $$
BEGIN
    IF current_setting('server_encoding') = 'UTF8' THEN
        UPDATE heal.source_file f SET fingerprint = ''
        WHERE EXISTS (SELECT FROM heal.document d WHERE d.source = f.source AND d.path = f.path
                      AND d.deleted_at IS NULL AND d.external_id IS NOT NFC NORMALIZED);
    END IF;
END $$;
