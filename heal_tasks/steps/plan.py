"""What a run would do now, and cost, without doing it."""

import logging
from dataclasses import dataclass

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import silent
from heal_tasks.sources.chunking import token_counter
from heal_tasks.steps.ask import make_writer
from heal_tasks.steps.ingest import read_sources
from heal_tasks.steps.route import decide
from heal_tasks.steps.runner import Context
from heal_tasks.store.db import connect
from heal_tasks.store.documents import Changes
from heal_tasks.store.questions import QuestionRepository

PROMPT_TOKENS = 450
REPLY_TOKENS = 90
"""Measured on the packaged prompt: fixed part per call, and reply per question asked for."""


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Args:
        changes: documents that would be stored or deleted.
        rejected: records that would be quarantined.
        route: the route that would be taken.
        reason: why.
        writer: who would write questions.
        chunks_to_ask: chunks that have no questions by this writer.
        input_tokens: tokens that would be sent; 0 without an LLM.
        output_tokens: tokens that would come back.
        cost_usd: their price.
    """

    changes: Changes
    rejected: int
    route: str
    reason: str
    writer: str
    chunks_to_ask: int
    input_tokens: int
    output_tokens: int
    cost_usd: float

    def lines(self) -> list[str]:
        """The plan for people."""
        cost = "nothing to pay"
        if self.input_tokens:
            cost = f"about {self.input_tokens:,} tokens in, {self.output_tokens:,} out, {self.cost_usd:.2f} USD"
        return [
            f"documents  {self.changes.new} new, {self.changes.changed} changed, {self.changes.deleted} deleted, "
            f"{self.rejected} records to be quarantined",
            f"route      {self.route}: {self.reason}",
            f"questions  {self.chunks_to_ask} chunks to ask, by {self.writer}; {cost}",
        ]


def make_plan(settings: Settings) -> Plan:
    """Work out what a run would do; everything it reads into the store is undone.

    Args:
        settings: all settings.

    Returns:
        The plan.
    """
    writer = make_writer(settings)
    with connect(settings.require_database_url(), autocommit=True) as conn:
        context = Context(
            settings,
            Manifest(run_id="plan"),
            conn,
            artifact_store(settings),
            silent,
            0,
            1,
            logging.getLogger("heal_tasks.plan"),
        )
        with conn.transaction(force_rollback=True):
            changes, rejected = read_sources(context)
            chosen, _ = decide(context, changes)
            chunks = list(QuestionRepository(conn).unasked(writer.prompt_hash, writer.model))
    input_tokens = output_tokens = 0
    if settings.llm_configured:
        count_tokens = token_counter(resolve_model(settings.model))
        input_tokens = sum(PROMPT_TOKENS + count_tokens(chunk.title) + count_tokens(chunk.text) for chunk in chunks)
        output_tokens = REPLY_TOKENS * settings.questions_per_chunk * len(chunks)
    cost_usd = (
        input_tokens * settings.llm_input_usd_per_million + output_tokens * settings.llm_output_usd_per_million
    ) / 1e6
    return Plan(
        changes, rejected, chosen.name, chosen.reason, f"{writer.name} ({writer.model})", len(chunks),
        input_tokens, output_tokens, cost_usd,
    )  # fmt: skip
