"""heal_realign: read new documents every night, and realign or nudge the vectors, whichever they need."""

from datetime import timedelta
from typing import Any

from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference, chain, dag, task, task_group
from heal_airflow import (
    active_asset,
    announce,
    dag_arguments,
    for_each_corpus,
    gpu_task,
    join,
    nightly,
    route_of,
    run_report,
    run_step,
)
from heal_alerts import late
from heal_approval import ApproveOperator
from heal_batches import StepOperator
from heal_form import PARAMS
from heal_links import link_reports

from heal_tasks.core.settings import Settings

Json = Any  # a dict annotation would make Airflow split the manifest over several XComs


def make(settings: Settings) -> None:
    """Make the DAG of the deployment or of a corpus."""
    gpu, active = gpu_task(settings), active_asset(settings.corpus)
    ask_shards, embed_shards = list(range(settings.ask_shards)), list(range(settings.embed_shards))
    objectives = list(range(len(settings.objectives)))
    deadline = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=settings.deadline_hours),
        callback=AsyncCallback(late),
    )

    @dag(
        description="Read new documents, and realign or nudge the vectors, whichever they need.",
        schedule=nightly(settings),
        is_paused_upon_creation=True,
        params=PARAMS,
        deadline=deadline if settings.deadline_hours else None,
        **dag_arguments(settings, __file__, "HEAL nightly"),
    )
    def heal_realign() -> None:
        """Pull documents, choose the route, realign or nudge, report."""

        @task(
            doc_md="Pulls new, changed and deleted documents. Output: `heal.document`, `heal.chunk`, `heal.quarantine`."
        )
        def ingest() -> Json:
            return run_step("ingest")

        @task(doc_md="Chooses nothing, nudge or realign from counts, drift and age. Output: `heal.run.route_reason`.")
        def route(manifest: Json) -> Json:
            return run_step("route", manifest)

        @task.branch(doc_md="Follows the route that was chosen.")
        def follow(manifest: Json) -> list[str]:
            first = {"realign": ["realign.first_light", "realign.label"], "nudge": ["nudge.assign_labels"]}
            return first.get(route_of(manifest), ["nothing"])

        @task(doc_md="Nothing to align: no vector is written.")
        def nothing(manifest: Json) -> Json:
            return manifest

        @task_group(group_id="realign", tooltip="Topics, questions, training, a new generation, the gate")
        def realign(routed: Json) -> None:
            @task(doc_md="TF-IDF and HNMFk: a topic path per document. Output: `heal.topic`, `heal.document_topic`.")
            def label(manifest: Json) -> Json:
                return run_step("label", manifest)

            @task(doc_md="Entity maps of chunks, as a training view. Output: `heal.entity_map`, `heal.llm_call`.")
            def map_entities(shard: int, manifest: Json) -> Json:
                return run_step("map_entities", manifest, shard=shard, shards=len(ask_shards))

            @task(
                **gpu,
                doc_md="Drops questions for which the base model does not retrieve the source chunk. "
                "Output: `heal.question.dropped_by`.",
            )
            def sift(manifest: Json) -> Json:
                return run_step("sift", manifest)

            @task(doc_md="Near and far negatives per question by the base model. Output: a training set artifact.")
            def mine(manifest: Json) -> Json:
                return run_step("mine", manifest)

            @task(
                doc_md="A model per objective of `HEAL_OBJECTIVES`; stops early on held-out texts. Output: models.",
                **gpu,
                pool=settings.gpu_pool,
            )
            def train(shard: int, manifest: Json) -> Json:
                return run_step("train", manifest, shard=shard, shards=len(objectives))

            @task(doc_md="Every candidate moved in memory, scored and judged by the gate. Output: `heal.evaluation`.")
            def choose(manifests: list[Json]) -> Json:
                return run_step("choose", join(manifests))

            @task(
                doc_md="An LLM answers held-out questions from found passages. "
                "Output: `heal.answer`, `heal.evaluation`."
            )
            def answer(manifest: Json) -> Json:
                return run_step("answer", manifest)

            @task(
                outlets=[active],
                doc_md="Writes and indexes the winner, then switches in one transaction. "
                "Output: `heal.vec_g…`, `heal.lex_g…`.",
            )
            def publish(manifest: Json) -> Json:
                return announce(run_step("publish", manifest))

            lit = StepOperator(
                task_id="first_light",
                step="first_light",
                manifest=routed,
                **gpu,
                outlets=[active],
                doc_md="Where nothing is live: the base model's vectors and a lexicon, searchable at once by "
                "`heal.find`. Output: `heal.vec_g…`, `heal.lex_g…`.",
            )
            labelled = label(routed)
            asked = StepOperator.partial(
                task_id="ask",
                step="ask",
                manifest=labelled,
                shards=len(ask_shards),
                doc_md="Questions with answers and evidence per chunk; deferred while a batch is under way. "
                "Output: `heal.question`, `heal.llm_call`, `heal.llm_batch`.",
            ).expand(shard=ask_shards)
            based = StepOperator.partial(
                task_id="embed_base",
                step="embed_base",
                manifest=labelled,
                shards=len(embed_shards),
                **gpu,
                doc_md="Vectors of the base model, for mining and comparison. "
                "Output: `heal.base_s…`, `heal.question_s…`.",
            ).expand(shard=embed_shards)
            sifted = sift(labelled)
            mined = mine(sifted)
            trained = train.partial(manifest=mined).expand(shard=objectives)
            embedded = StepOperator.partial(
                task_id="embed",
                step="embed",
                manifest=trained,
                shards=len(embed_shards),
                **gpu,
                doc_md="Vectors of base, live and trained models. Output: `heal.base_s…`, `heal.question_s…`.",
            ).expand(shard=embed_shards)
            chosen = choose(trained)
            chain([lit, asked], based, sifted)
            if settings.map_rate:
                chain(asked, map_entities.partial(manifest=labelled).expand(shard=ask_shards), mined)
            chain(embedded, chosen)
            if settings.answer_questions:
                chosen = answer(chosen)
            if settings.approval:
                chosen = ApproveOperator(
                    task_id="approve",
                    manifest=chosen,
                    doc_md="Waits until a person approves or rejects the generation, under Required Actions.",
                ).output
            publish(chosen)

        @task_group(
            group_id="nudge",
            tooltip="Embeds new documents and moves the few existing vectors that their questions affect.",
        )
        def nudge_only(routed: Json) -> None:
            @task(
                doc_md="Topic paths of the new documents, projected on the stored tree. Output: `heal.document_topic`."
            )
            def assign_labels(manifest: Json) -> Json:
                return run_step("assign_labels", manifest)

            @task(doc_md="Questions for the new chunks only. Output: `heal.question`, `heal.llm_call`.")
            def ask(manifest: Json) -> Json:
                return run_step("ask", manifest)

            @task(
                outlets=[active],
                doc_md="Computes touched rows, checks quality, writes rows that changed. Output: `heal.vec_g…`.",
            )
            def nudge_live(manifest: Json) -> Json:
                return announce(run_step("nudge_live", manifest))

            embedded = StepOperator(
                task_id="embed_new",
                step="embed_new",
                manifest=ask(assign_labels(routed)),
                **gpu,
                doc_md="Vectors of new chunks and questions with the live model. Output: `heal.base_s…`.",
            )
            nudge_live(embedded.output)

        @task(
            trigger_rule="all_done",
            doc_md="One row and one page per run, whatever happened. Output: `heal.run`, Browse › HEAL runs.",
        )
        def report() -> Json:
            return run_report()

        ingested = ingest()
        routed = route(ingested)
        chosen = follow(routed)
        paths = [nothing(routed), realign(routed), nudge_only(routed)]
        chain(chosen, paths, report())

    link_reports(heal_realign())


for_each_corpus(make)
