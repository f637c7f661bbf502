"""The plan of a run: the route it would take and its cost, with everything undone."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import resolve_model
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import silent
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.sources.chunking import token_counter
from heal_tasks.steps.answer import PASSAGES
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.ingest import read_sources
from heal_tasks.steps.map_entities import MapRecorder
from heal_tasks.steps.route import decide
from heal_tasks.steps.writing.llm_batches import waits_for_batches, worth_a_batch
from heal_tasks.steps.writing.llm_calls import BATCH_PRICE_FACTOR, cost_usd
from heal_tasks.steps.writing.question_recorder import QuestionRecorder, make_writer
from heal_tasks.steps.writing.spend_limit import affordable, spend_limit_of
from heal_tasks.store.db import connect
from heal_tasks.store.documents.documents import Changes
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.llm.batches import BatchRepository
from heal_tasks.store.llm.spend_limit import SpendLimit

PROMPT_TOKENS = 450
REPLY_TOKENS = 90
"""Measured on the packaged prompt: fixed part per call, and reply per question asked for."""

MAP_PROMPT_TOKENS = 850
MAP_REPLY_RATIO = 4.5
"""The same for entity maps, measured on a lease, a dense text: fixed part, and reply per token of the chunk."""

ANSWER_PROMPT_TOKENS, ANSWER_REPLY_TOKENS = 300, 60
"""The same for answers, estimated: fixed part without the passages, and reply."""


@dataclass(frozen=True)
class Calls:
    """Calls that would be made about chunks; without an LLM there are no tokens."""

    chunks: int
    input_tokens: int = 0
    output_tokens: int = 0
    costs_usd: Sequence[float] = ()  # by chunk

    @property
    def cost_usd(self) -> float:
        """The price of all."""
        return sum(self.costs_usd)

    def price(self) -> str:
        """Tokens and price for people."""
        if not self.input_tokens:
            return "nothing to pay"
        return f"about {self.input_tokens:,} tokens in, {self.output_tokens:,} out, {self.cost_usd:.2f} USD"


@dataclass(frozen=True)
class Plan:
    """What a run would do. ``maps`` and ``answers`` are None where the route wants none."""

    changes: Changes
    rejected: int  # records that would be quarantined
    route: str
    reason: str
    writer: str
    questions: Calls  # for chunks without questions by this writer
    maps: Calls | None
    answers: Calls | None  # at most
    limit: str = ""  # the spend limits and what they leave

    def lines(self) -> list[str]:
        """The plan for people."""
        lines = [
            f"documents  {self.changes.new} new, {self.changes.changed} changed, {self.changes.deleted} deleted, "
            f"{self.rejected} records to be quarantined",
            f"route      {self.route}: {self.reason}",
            f"questions  {self.questions.chunks} chunks to ask, by {self.writer}; {self.questions.price()}",
        ]
        if self.maps:
            lines.append(f"maps       {self.maps.chunks} chunks to map; {self.maps.price()}")
        if self.answers:
            lines.append(f"answers    at most {self.answers.chunks} answers; {self.answers.price()}")
        return [*lines, f"limit      {self.limit}"] if self.limit else lines


def make_plan(settings: Settings) -> Plan:
    """Work out what a run would do; everything that it reads into the store is undone.

    Raises:
        SettingsError: entity maps or answers are wanted, and there is no LLM.
    """
    settings.require_llm()
    with connect(settings.require_database_url(), autocommit=True) as conn:
        author = make_writer(settings, conn).author
        context = Context(
            settings, Manifest(run_id="plan"), conn, artifact_store(settings), silent, 0, 1, logging.getLogger(__name__)
        )
        with conn.transaction(force_rollback=True):
            changes, rejected = read_sources(context)
            chosen, _ = decide(context, changes)
            under_way = BatchRepository(conn, settings.llm_url).texts_under_way(author.model, author.prompt_hash)
            to_ask = [
                chunk for chunk in QuestionRecorder(context, author).to_ask() if chunk.content_hash not in under_way
            ]
            to_map = MapRecorder(context).to_map() if settings.map_rate and chosen.name == "realign" else None
        reply = REPLY_TOKENS * settings.questions_per_chunk
        batched = waits_for_batches(settings, chosen.name) and worth_a_batch(
            settings, len(to_ask) // settings.ask_shards
        )
        price_factor = BATCH_PRICE_FACTOR if batched else 1.0
        questions = _calls(settings, to_ask, lambda tokens: (PROMPT_TOKENS + tokens, reply), price_factor)
        maps, answers, costs, unit = None, None, questions.costs_usd, "chunks"
        if to_map is not None:
            maps = _calls(
                settings, to_map, lambda tokens: (MAP_PROMPT_TOKENS + tokens, round(MAP_REPLY_RATIO * tokens))
            )
            costs, unit = [*costs, *maps.costs_usd], "calls"
        if settings.answer_questions and chosen.name == "realign":
            answers = _answers(settings, 2 if GenerationRepository(conn).active() is None else 3)
            costs, unit = [*costs, *answers.costs_usd], "calls"
        limit = _limit_line(spend_limit_of(conn, settings, context.run_id), costs, unit)
    return Plan(
        changes, rejected, chosen.name, chosen.reason, f"{author.name} ({author.model})", questions, maps, answers,
        limit,
    )  # fmt: skip


def _calls(
    settings: Settings,
    chunks: Sequence[ChunkToAsk],
    tokens_of: Callable[[int], tuple[int, int]],
    price_factor: float = 1.0,
) -> Calls:
    """The cost of calls about chunks; ``tokens_of`` gives tokens in and out by a chunk's length in tokens."""
    if not settings.llm_configured:
        return Calls(len(chunks))
    count_tokens = token_counter(resolve_model(settings.model))
    tokens = [tokens_of(count_tokens(item.title) + count_tokens(item.text)) for item in chunks]
    return Calls(
        len(chunks),
        sum(sent for sent, _ in tokens),
        sum(replied for _, replied in tokens),
        [price_factor * cost_usd(settings, *pair) for pair in tokens],
    )


def _answers(settings: Settings, systems: int) -> Calls:
    """The highest cost of answers: every question is answered, and no two systems find the same passages."""
    calls = systems * settings.answer_questions
    sent, replied = ANSWER_PROMPT_TOKENS + PASSAGES * settings.chunk_tokens, ANSWER_REPLY_TOKENS
    return Calls(calls, calls * sent, calls * replied, [cost_usd(settings, sent, replied)] * calls)


def _limit_line(limit: SpendLimit, costs: Sequence[float], unit: str) -> str:
    if not limit.limited:
        return ""
    spending, parts = limit.spending(), list[str]()
    if limit.run_usd:
        parts.append(f"{limit.run_usd:.2f} USD per run")
    if limit.day_usd:
        reserved = f" and {spending.reserved_usd:.2f} reserved" if spending.reserved_usd else ""
        parts.append(f"{limit.day_usd:.2f} USD per day, {spending.day_usd:.2f} spent today{reserved}")
    fitting = affordable(limit, costs)
    share = f"about {fitting:,} of {len(costs):,}" if fitting < len(costs) else f"all {len(costs):,}"
    return f"{'; '.join(parts)}: {share} {unit}"
