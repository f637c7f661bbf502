"""What doctor says about the database."""

import shutil
import tempfile
from pathlib import Path

from heal_tasks.cli.doctor import Finding, examine
from heal_tasks.core.settings import Settings, load_settings
from heal_tasks.local.postgres import EmbeddedPostgres
from heal_tasks.store.db import Connection


def findings(settings: Settings) -> list[Finding]:
    return [item for item in examine(settings) if item.subject == "database"]


def test_a_good_database_and_one_that_everybody_may_write_to(auto: Connection, settings: Settings) -> None:
    (found,) = findings(settings)
    assert (found.level, found.text[:11]) == ("ok", "PostgreSQL ")
    assert ", pgvector 0.8." in found.text
    auto.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    _, found = findings(settings)
    assert found.level == "fail"
    assert found.text.endswith("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def test_a_server_that_nobody_has_migrated(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="heal-postgres-"))
    folder.chmod(0o711)
    server = EmbeddedPostgres(folder / "data")
    try:
        found = findings(load_settings(var_dir=tmp_path, database_url=server.start()))
    finally:
        server.stop()
        shutil.rmtree(folder)
    assert [item.level for item in found] == ["ok", "fail", "note"]
    assert "pgvector not created yet" in found[0].text
    assert "run `python -m heal_tasks migrate`" in found[1].text
    assert found[2].text.startswith("roles heal_owner, heal_pipeline, heal_reader are missing")
