"""The fields of ``Settings`` that say how runs are scheduled and where they run; ``setting_groups`` has the others."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field
from pydantic_settings import NoDecode

# fmt: off
# As in ``setting_groups``.


class RunSettings(BaseModel):
    """Runs.

    Shards are read with the DAG file: restart the components after a change. Route, sources, sample size
    and dry run are also fields of the DAG's trigger form, which is the place to set them for one run.
    """

    force_route: Literal["auto", "nothing", "nudge", "realign"] = Field("auto",
        description="Route to take whatever the counts say, for one run; `auto` lets the step `route` choose.")
    dry_run: bool = Field(False, description="Read the sources and choose the route, then undo it.")
    ask_shards: int = Field(2, ge=1, le=256, description="Number of mapped tasks that generate questions in parallel.")
    embed_shards: int = Field(2, ge=1, le=256,
        description="Number of mapped tasks that embed in parallel, each with its own model (800 MB).")


class AirflowSettings(BaseModel):
    """Airflow.

    Read with the DAG files: restart the components after a change.
    """

    schedule: str = Field("0 2 * * *", description="Cron expression of the nightly run, in UTC; empty: no nightly run.")
    maintain_schedule: str = Field("0 5 * * *", description="Cron expression of the maintenance, in UTC; empty: none.")
    watch_minutes: float = Field(0.0, ge=0, le=1440,
        description="Interval of the search for new files in the sources, which start a run, in minutes; 0: none.")
    gpu_queue: str = Field("gpu", min_length=1,
        description="Queue of the tasks that need the GPU or load a model; the others are on Airflow's default queue.")
    gpu_pool: str = Field("gpu", min_length=1,
        description="Pool of `train`; its slots are the number of trainings at a time.")
    gpu_pod_template: Path | None = Field(None,
        description="YAML file with the pod of the GPU tasks under KubernetesExecutor; unset: the executor's own.")
    task_timeout_hours: float = Field(12.0, gt=0, le=1000,
        description="Time after which a task is ended and failed, in hours, without waits for a batch of questions.")
    run_timeout_hours: float = Field(48.0, gt=0, le=1000,
        description="Time after which a run is failed, in hours, waits for a batch included.")
    deadline_hours: float = Field(0.0, ge=0, le=1000,
        description="Time after its queueing by which a run has ended, or else an alert is sent, in hours; 0: none.")
    stale_hours: float = Field(0.0, ge=0, le=10_000,
        description="Time without a successful run after which `heal_maintain` sends an alert, in hours; 0: never.")
    alerts: Annotated[tuple[str, ...], NoDecode] = Field((),
        description="Blank-separated Airflow connections that alerts are sent to: of type smtp, http or slackwebhook.")
    approval: bool = Field(False,
        description="Wait for a person's approval in the Airflow UI before a generation with other vectors goes live.")


class LocalSettings(BaseModel):
    """One machine.

    Used by `make up` and `make demo`.
    """

    airflow_port: int = Field(8080, ge=0, le=65535, description="Port of the Airflow UI, or the next free one; 0: any.")
    airflow_parallelism: int = Field(3, ge=1, le=64, description="Number of tasks at a time; at most one per core.")
    demo_documents: int = Field(1500, ge=50, description="Number of documents that `make demo` puts into the inbox.")
