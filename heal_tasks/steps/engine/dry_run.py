"""The plan of a run: the route it would take and its cost, with everything undone."""

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from heal_tasks.core.artifacts import artifact_store
from heal_tasks.core.ids import sha256_hex
from heal_tasks.core.manifest import Manifest
from heal_tasks.core.models import api_model, tokenizer_folder
from heal_tasks.core.prompts import missing_prompts
from heal_tasks.core.settings import Settings
from heal_tasks.core.types import silent
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.sources.chunking import token_counter
from heal_tasks.steps.answer import PASSAGES
from heal_tasks.steps.engine.runner import Context
from heal_tasks.steps.map_entities import MapRecorder
from heal_tasks.steps.quality.measurable import held_out_counts, why_unmeasured
from heal_tasks.steps.quality.scripts import unread_chunks
from heal_tasks.steps.reading.source_reader import named
from heal_tasks.steps.reading.sources import Reading, read_sources
from heal_tasks.steps.route import decide
from heal_tasks.steps.vectors.adopted import texts_to_embed
from heal_tasks.steps.vectors.embedding_batches import embedding_batches_url, sends_batches, texts_under_way
from heal_tasks.steps.writing.llm_batches import waits_for_batches, worth_a_batch
from heal_tasks.steps.writing.llm_calls import BATCH_PRICE_FACTOR, cost_usd, embedding_cost_usd, spend_limit_of
from heal_tasks.steps.writing.question_recorder import QuestionRecorder, make_writer
from heal_tasks.store.adopted.adopted import AdoptedRepository
from heal_tasks.store.db import connect
from heal_tasks.store.documents.chunks import live_chunks
from heal_tasks.store.generations.generations import GenerationRepository
from heal_tasks.store.llm.batches import BatchRepository
from heal_tasks.store.llm.ledger import SpendLimit
from heal_tasks.store.questions.question_counts import QuestionCounts, read_question_counts
from heal_tasks.store.spaces.spaces import SpaceRepository

PROMPT_TOKENS, REPLY_TOKENS = 450, 90
"""Measured on the packaged prompt: fixed part per call, and reply per question asked for."""

MAP_PROMPT_TOKENS, MAP_REPLY_RATIO = 850, 4.5
"""The same for entity maps, measured on a lease, a dense text: fixed part, and reply per token of the chunk."""

ANSWER_PROMPT_TOKENS, ANSWER_REPLY_TOKENS = 300, 60
"""The same for answers, estimated: fixed part without the passages, and reply."""


QUESTION_TOKENS = 17
"""Of a written question, to embed: 16.6 on average of 3,769 by a large language model, with the packaged tokenizer."""


@dataclass(frozen=True)
class Calls:
    """Calls of a language model that would be made."""

    chunks: int  # or answers; one call each
    input_tokens: int = 0
    output_tokens: int = 0
    costs_usd: Sequence[float] = ()  # of each call; empty without an LLM

    @property
    def cost_usd(self) -> float:
        """The price of all."""
        return sum(self.costs_usd)

    def price(self) -> str:
        """Tokens and price as text."""
        if not self.input_tokens:
            return "nothing to pay"
        return f"about {self.input_tokens:,} tokens in, {self.output_tokens:,} out, {self.cost_usd:.2f} USD"


@dataclass(frozen=True)
class Plan:
    """The plan of a run; ``maps`` and ``answers`` are None where the route wants none."""

    reading: Reading  # of the sources
    route: str
    reason: str
    writer: str
    questions: Calls  # for chunks without questions by this writer
    maps: Calls | None
    answers: Calls | None  # at most
    embeddings: Calls | None  # by an API; None for a model in files
    measured: str  # whether the gate will have questions to judge by
    limit: str  # the spend limits and what they leave; empty without limits
    unread: str  # about chunks that the model does not read; empty without any
    prompts: str  # about prompts that the model lacks; empty if it lacks none

    def lines(self) -> list[str]:
        """The plan as text."""
        skipped = self.reading.skipped
        lines = [
            f"documents  {self.reading.changes}, {self.reading.rejected} records to be quarantined",
            *([f"skipped    {skipped.total()} files: {named(skipped)}"] if skipped else []),
            *(f"warning    {text}" for text in self.reading.warnings),
            f"route      {self.route}: {self.reason}",
            f"questions  {self._questions()}",
        ]
        if self.maps:
            lines.append(f"maps       {self.maps.chunks} chunks to map; {self.maps.price()}")
        if self.answers:
            lines.append(f"answers    at most {self.answers.chunks} answers; {self.answers.price()}")
        if self.embeddings:
            lines.append(f"embeddings {self.embeddings.chunks} texts to embed; {self.embeddings.price()}")
        lines.append(f"quality    {self.measured}")
        if self.limit:
            lines.append(f"limit      {self.limit}")
        return [*lines, *(f"model      {text}" for text in (self.unread, self.prompts) if text)]

    def _questions(self) -> str:
        chunks = self.questions.chunks
        if self.route == "nothing" and chunks:
            return f"{chunks} chunks have none by {self.writer}; only HEAL_FORCE_ROUTE=realign would ask for them"
        return f"{chunks} chunks to ask, by {self.writer}; {self.questions.price()}"


def make_plan(settings: Settings) -> Plan:
    """Work out what a run would do; everything that it reads into the store is undone."""
    settings.require_llm()
    with connect(settings.require_database_url(), autocommit=True) as conn:
        author, _ = make_writer(settings, conn)
        context = Context(
            settings, Manifest(run_id="plan"), conn, artifact_store(settings), silent, 0, 1, logging.getLogger(__name__)
        )
        with conn.transaction(force_rollback=True):
            reading = read_sources(context)
            chosen, _ = decide(context, reading.changes)
            under_way = BatchRepository(conn, settings.llm_url).texts_under_way(author.model, author.prompt_hash)
            unasked = QuestionRecorder(context, author).to_ask()
            to_ask = [chunk for chunk in unasked if chunk.content_hash not in under_way]
            to_map = MapRecorder(context).to_map() if settings.map_rate and chosen.name == "realign" else None
            unembedded = _unembedded(context) if api_model(settings.model) and chosen.name != "nothing" else None
            unread = unread_chunks(conn, settings)
            measured = _measured(read_question_counts(conn), settings, len(to_ask))
            systems = 2 if GenerationRepository(conn).active() is None else 3
        folder = tokenizer_folder(settings.model)
        count_tokens = token_counter(folder)
        own_folder = None if api_model(settings.model) else folder
        prompts = missing_prompts(settings.model, settings.model_options, own_folder)

        def length(chunk: ChunkToAsk) -> int:
            return count_tokens(chunk.title) + count_tokens(chunk.text)

        questions, maps, answers = Calls(len(to_ask)), None, None
        if settings.llm_configured:
            shard = len(to_ask) // settings.ask_shards
            batched = waits_for_batches(settings, chosen.name) and worth_a_batch(settings, shard)
            tokens = [(PROMPT_TOKENS + length(item), REPLY_TOKENS * settings.questions_per_chunk) for item in to_ask]
            questions = _calls(settings, tokens, BATCH_PRICE_FACTOR if batched else 1.0)
        if to_map is not None and not settings.llm_writes_maps:
            maps = Calls(len(to_map))
        elif to_map is not None:
            lengths = [length(chunk) for chunk in to_map]
            maps = _calls(settings, [(MAP_PROMPT_TOKENS + size, round(MAP_REPLY_RATIO * size)) for size in lengths])
        if settings.answer_questions and chosen.name == "realign":
            # At most: every question is answered, and no two systems find the same passages.
            tokens_each = ANSWER_PROMPT_TOKENS + PASSAGES * settings.chunk_tokens, ANSWER_REPLY_TOKENS
            answers = _calls(settings, [tokens_each] * systems * settings.answer_questions)
        embeddings = None
        if unembedded is not None:
            asked = len(to_ask) * settings.questions_per_chunk
            question_tokens = QUESTION_TOKENS + count_tokens(settings.query_prompt or "")
            sizes = [*map(count_tokens, unembedded), *[question_tokens] * asked]
            of_a_task = unembedded[:: settings.embed_shards]
            factor = BATCH_PRICE_FACTOR if sends_batches(settings, chosen.name, of_a_task) else 1.0
            prices = [factor * embedding_cost_usd(settings, size) for size in sizes]
            embeddings = Calls(len(sizes), sum(sizes), 0, prices)
        paid = (questions, maps, answers, embeddings)
        costs = [cost for calls in paid if calls for cost in calls.costs_usd]
        limit = _limit_line(spend_limit_of(context), costs, "calls" if maps or answers or embeddings else "chunks")
    writer = f"{author.name} ({author.model})"
    return Plan(
        reading, chosen.name, chosen.reason, writer, questions, maps, answers, embeddings, measured, limit, unread,
        prompts,
    )  # fmt: skip


def _unembedded(context: Context) -> list[str]:
    """Texts of chunks and questions, with prompts, that have no vector in the base space, a batch or a table."""
    spaces, options = SpaceRepository(context.conn), context.settings.model_options
    before_chunk, before_question = options.document_prompt or "", options.query_prompt or ""
    tables = [item.source for item in AdoptedRepository(context.conn).list() if item.model == context.settings.model]
    query = "SELECT chunk_id FROM heal.chunk JOIN heal.document USING (document_id) WHERE source = ANY(%s)"
    taken = {chunk_id for (chunk_id,) in context.conn.execute(query, (tables,))}
    space = spaces.find_by_uri(context.settings.model_uri)
    lacking = spaces.missing_chunks(space) if space else live_chunks(context.conn)
    missing = [chunk for chunk in lacking if chunk.chunk_id not in taken]
    chunks = [before_chunk + text for _, text in texts_to_embed(context.conn, missing)]
    if space is None:
        return chunks
    texts = [*chunks, *(before_question + text for _, text in spaces.missing_questions(space))]
    batches = BatchRepository(context.conn, embedding_batches_url(context.settings))
    under_way = texts_under_way(batches, space)
    return [text for text in texts if not under_way or sha256_hex(text) not in under_way]


def _measured(counts: QuestionCounts, settings: Settings, to_ask: int) -> str:
    why = why_unmeasured(counts, settings)
    if not why:
        return "can be measured: " + ", ".join(
            f"{number} of {name}" for name, number in held_out_counts(counts).items()
        )
    if counts.questions + to_ask * settings.questions_per_chunk >= settings.gate_min_questions:
        return f"depends on the questions that the {to_ask} chunks give; without them nothing can be measured"
    return f"nothing can be measured: {why}"


def _calls(settings: Settings, tokens: Sequence[tuple[int, int]], price_factor: float = 1.0) -> Calls:
    """Calls by the tokens in and out of each."""
    costs = [price_factor * cost_usd(settings, *pair) for pair in tokens]
    return Calls(len(tokens), sum(sent for sent, _ in tokens), sum(replied for _, replied in tokens), costs)


def _limit_line(limit: SpendLimit, costs: Sequence[float], unit: str) -> str:
    if not limit.limited:
        return ""
    spending, parts = limit.spending(), list[str]()
    if limit.run_usd:
        parts.append(f"{limit.run_usd:.2f} USD per run")
    if limit.day_usd:
        reserved = f" and {spending.reserved_usd:.2f} reserved" if spending.reserved_usd else ""
        parts.append(f"{limit.day_usd:.2f} USD per day, {spending.day_usd:.2f} spent today{reserved}")
    fitting = bisect_right(list(accumulate(costs)), limit.left_usd(spending))
    share = f"about {fitting:,} of {len(costs):,}" if fitting < len(costs) else f"all {len(costs):,}"
    return f"{'; '.join(parts)}: {share} {unit}"
