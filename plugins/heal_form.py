"""The trigger form of ``heal_realign``, and the refusal of fields that a DAG does not have.

Airflow checks each field of a form when a run is triggered, but not whether there is such a field: neither a DAG's
params nor its timetable, listeners or policies see the whole configuration then. So the first task checks it.
"""

from airflow.sdk import Context, Param
from airflow.sdk.exceptions import AirflowFailException

from heal_tasks.core.text import nearest_name

PARAMS: dict[str, Param] = {
    "force_route": Param(
        "auto",
        type="string",
        enum=["auto", "nothing", "nudge", "realign"],
        title="Route",
        description="auto takes HEAL_FORCE_ROUTE, or else what the counts say; nudge and realign force that route; "
        "nothing only ingests.",
    ),
    "sources": Param(
        "",
        type=["null", "string"],
        title="Sources",
        # The form's message shows the pattern; a quote may stand anywhere in a spec, so the step reads those.
        pattern=r'^\s*((file:|s3://|pydocs:|source:|table:|\S*")[\s\S]*)?$',
        description="Blank-separated: file:FOLDER, s3://BUCKET/PREFIX, pydocs:PACKAGE, source:NAME (a table of the "
        "deployment's sources.toml), table:SCHEMA.TABLE (adopted); a name with blanks in double quotes. Only what lies "
        "in HEAL_SOURCE_ROOTS (unset: in HEAL_SOURCES) is read. Empty takes HEAL_SOURCES.",
        maxLength=2000,
    ),
    "sample_documents": Param(
        0,
        type="integer",
        minimum=0,
        maximum=10_000_000,
        title="Sample size",
        description="At most this many documents per source, none deleted. 0 takes HEAL_SAMPLE_DOCUMENTS.",
    ),
    "dry_run": Param(
        False,
        type="boolean",
        title="Dry run",
        description="Read the sources and choose the route, then undo it: nothing is stored, sent or trained. Off "
        "takes HEAL_DRY_RUN.",
    ),
}
"""The trigger form of ``heal_realign``."""


def check_conf(context: Context) -> None:
    """Fail a run whose configuration has fields that would be ignored: it would do what was not meant."""
    conf, known = context["dag_run"].conf or {}, context["dag"].params
    for key, value in conf.items():
        if key not in known:
            meant = nearest_name(key, known)
            fields = f"its fields are {', '.join(sorted(known))}" if known else "it has no fields"
            raise AirflowFailException(
                f"the run's configuration has {key!r}, which {context['dag'].dag_id} does not know"
                f"{f'; did you mean {meant!r}?' if meant else ''}; {fields}. Nothing was done: trigger it again"
            )
        if context["params"].get(key) != value:
            raise AirflowFailException(
                f"the run's {key!r} would be ignored, because [core] dag_run_conf_overrides_params is off in Airflow's "
                "configuration; switch it on. Nothing was done"
            )
