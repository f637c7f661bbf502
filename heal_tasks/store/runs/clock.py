"""Times that a clock which was ahead has left: they count as now, so that no age is negative."""

from psycopg import sql

from heal_tasks.store.db import Connection

_TIMES = {
    "run": ("started_at", "finished_at"),
    "step_result": ("started_at", "finished_at"),
    "generation": ("created_at", "activated_at", "retired_at", "changed_at"),
    "space": ("created_at", "used_at"),
    "topic_run": ("created_at",),
    "document": ("created_at", "changed_at", "deleted_at", "acl_changed_at"),
    "question": ("created_at",),
    "llm_call": ("created_at",),
    "llm_batch": ("created_at", "sent_at"),
}


def mend_times(conn: Connection) -> str:
    """Set times to come to the present, and say of how many rows; empty where none was to come.

    Otherwise what is dated to come would be newer than all that follows, until the clock has caught up: a realignment
    every night, no room in a day's spend limit. The order of steps is in ``heal.step_result.number`` instead.
    """
    ahead = sql.SQL("now() + interval '1 minute'")  # processes that work at the same time have begun a little later
    mended = 0
    with conn.transaction():  # so that all of them have one time, and none seems to follow another
        for table, columns in _TIMES.items():
            names = [sql.Identifier(name) for name in columns]
            mend = sql.SQL("{0} = CASE WHEN {0} > {1} THEN now() ELSE {0} END")
            # A training set is older or younger than a deletion; maintenance takes one of a time to come for older.
            rest = sql.SQL("step <> 'mine'" if table == "step_result" else "true")
            query = sql.SQL("UPDATE heal.{} SET {} WHERE {} AND ({})").format(
                sql.Identifier(table),
                sql.SQL(", ").join(mend.format(name, ahead) for name in names),
                rest,
                sql.SQL(" OR ").join(sql.SQL("{} > {}").format(name, ahead) for name in names),
            )
            mended += conn.execute(query).rowcount
    if not mended:
        return ""
    return (
        f"the clock of the database server was ahead: {mended} rows had times to come, which count as now; check the "
        "clock of its machine"
    )
