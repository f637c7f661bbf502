"""Step route: the facts that it reads from the store."""

from datetime import UTC, datetime

from heal_tasks.core.manifest import Manifest
from heal_tasks.core.settings import Settings
from heal_tasks.nudge.route import TRAINING_PATIENCE
from heal_tasks.steps.engine.road import load_step
from heal_tasks.store.db import Connection
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.runs.runs import RunRepository
from tests.steps.planted_systems import plant_questions, plant_space, serve


def refuse_trainings(conn: Connection) -> None:
    for number in range(TRAINING_PATIENCE):
        run = f"refused {number}"
        RunRepository(conn).open_run(run)
        conn.execute(
            "INSERT INTO heal.evaluation (run_id, system, question_set, metric, value, questions) "
            "VALUES (%s, 'answers model', 's', 'ndcg@10', 0.5, 9)",
            (run,),
        )
        refs = {"refs": {"best_system": "answers model", "best_id": 9, "generation_id": 0}}
        conn.execute(
            "INSERT INTO heal.step_result (step, fingerprint, shard, run_id, result, finished_at) "
            "VALUES ('choose', %s, 0, %s, %s, %s)",
            (run, run, refs, datetime.now(UTC)),
        )


def skipped(settings: Settings, run_id: str) -> str:
    refs: dict[str, int | str] = {"new": 0, "changed": 0, "deleted": 0}
    made = load_step("route").run(settings, Manifest(run_id=run_id, refs=refs))
    assert made.text("route") == "realign"
    return str(made.refs["skip_training"])


def test_refused_trainings_of_another_base_model_do_not_count(auto: Connection, settings: Settings) -> None:
    plant_questions(auto)
    live = serve(auto, plant_space(auto, settings.model, "old", 384, ()))
    assert GenerationRepository(auto).get(live.generation_id).topic_run_id is None
    refuse_trainings(auto)
    assert skipped(settings, "r1").startswith(f"No training: the last {TRAINING_PATIENCE} trained models")
    assert skipped(settings.model_copy(update={"model": "models/another"}), "r2") == ""
    plant_space(auto, settings.model, "other files at the same place", 384, ())
    assert skipped(settings, "r3") == ""
