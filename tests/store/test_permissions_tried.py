"""What ``doctor --security`` says about readers: how they are kept apart, tried out, with every fault found."""

from heal_tasks.core.types import Record
from heal_tasks.store.db import Connection
from heal_tasks.store.grants import grant_faults
from heal_tasks.store.permissions import examine_permissions
from tests.store.sample_store import SampleStore, chunker


def test_it_says_how_readers_are_kept_apart_and_tries_it(store: SampleStore, auto: Connection) -> None:
    assert examine_permissions(auto).describe().startswith("no document has a list of readers; principals come from")
    records = [Record(f"d{n}", "T", f"text {n}", {"acl": ["alice"]} if n % 2 else {}) for n in range(8)]
    store.documents.apply_records("s", records, chunker)
    store.publish(store.generation("m"))
    found = examine_permissions(auto)
    assert (found.restricted, found.by_setting, found.row_security, found.faults) == (4, True, False, [])
    assert "4 documents have a list of readers; principals come from heal.principals, which every" in found.describe()
    auto.execute(
        "CREATE OR REPLACE FUNCTION heal.principals() RETURNS text[] LANGUAGE sql STABLE SECURITY DEFINER "
        "SET search_path = pg_catalog, public, pg_temp AS 'SELECT heal.role_principals()'"
    )
    auto.execute("CALL heal.row_security(true)")
    found = examine_permissions(auto)
    assert (found.restricted, found.by_setting, found.row_security, found.faults) == (4, False, True, [])
    assert "a function of the session's user; row-level security is on" in found.describe()
    # A view without its condition.
    auto.execute(
        "CREATE OR REPLACE VIEW heal.embedding AS "
        "SELECT chunk_id, document_id, leaf, embedding, generation_id FROM heal.served"
    )
    faults = examine_permissions(auto).faults
    assert faults
    assert "is shown 4 documents by views that are for others; run `python -m heal_tasks migrate`" in faults[0]


def test_a_table_that_a_reader_was_granted_needs_row_security(store: SampleStore, auto: Connection) -> None:
    store.documents.apply_records("s", [Record("d", "T", "text", {"acl": ["alice"]})], chunker)
    auto.execute("GRANT SELECT ON heal.document TO heal_reader")
    assert any("heal_reader has SELECT on heal.document" in fault for fault in grant_faults(auto))
    fault, *_ = examine_permissions(auto).faults
    assert "heal_reader with the principals none is shown 1 documents by heal.document that are for others" in fault
    auto.execute("CALL heal.row_security(true)")
    assert not any("heal.document" in fault for fault in grant_faults(auto))
    assert examine_permissions(auto).faults == []


def test_a_role_is_tried_whatever_its_name(store: SampleStore, auto: Connection) -> None:
    store.documents.apply_records("s", [Record("d", "T", "text", {"acl": ["alice"]})], chunker)
    auto.execute('CREATE ROLE "Sales-Team"; GRANT USAGE ON SCHEMA heal TO "Sales-Team"')
    try:
        auto.execute('GRANT SELECT ON heal.document TO "Sales-Team"')
        fault, *_ = examine_permissions(auto).faults
        assert "Sales-Team with the principals none is shown 1 documents by heal.document" in fault
    finally:
        auto.execute('DROP OWNED BY "Sales-Team"; DROP ROLE "Sales-Team"')
