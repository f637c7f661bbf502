"""Step map_entities: an entity map of every chunk that has none yet, for training to be shown instead of texts.

Only a realignment trains, so only its path has this step.
"""

import json
from collections import Counter
from dataclasses import asdict
from functools import partial

from heal_tasks.core.models import resolve_model
from heal_tasks.questions.llm.prompt_spec import Answered
from heal_tasks.questions.maps.entity_maps import DROP_REASONS, EntityMap, ground
from heal_tasks.questions.maps.prompts import map_inquiry
from heal_tasks.questions.maps.rendering import PUBLISHED_REDUCTION, fit, render
from heal_tasks.questions.writer import ChunkToAsk
from heal_tasks.sources.chunking import embedding_text, token_counter
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.writing.llm_calls import STORE_EVERY, Bill, make_llm, one_per_text, refuse_if_failing
from heal_tasks.steps.writing.spend_limit import SpendLimit, budget_of
from heal_tasks.store.db import Connection
from heal_tasks.store.questions.entity_maps import MapRepository, StoredMap


def maps_by(conn: Connection, model: str) -> MapRepository:
    """The maps that a language model gives to this version's prompt."""
    return MapRepository(conn, map_inquiry().prompt_hash, model)


class Mapping:
    """What one shard has mapped: checks what comes back against its text, stores it every few chunks, and counts.

    Args:
        context: of the step.

    Attributes:
        inquiry: what the model is asked.
        repository: where its maps are.
        bill: what they cost.
        counts: chunks by what came of them, and what their texts do not confirm by reason.
        reused: chunks that were given the map of an equal text.
    """

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self._context, self._model, self.inquiry = context, settings.llm_model, map_inquiry()
        self.repository = maps_by(context.conn, self._model)
        self._count_tokens = token_counter(resolve_model(settings.model))
        self._maps = list[StoredMap]()
        self.bill = Bill(settings, "maps", self._model, self.inquiry.prompt_hash)
        statuses = ("ok", "empty", "long", "short", "refused", "invalid", "failed")
        self.counts: Counter[str] = Counter(dict.fromkeys((*statuses, *map("dropped_{}".format, DROP_REASONS)), 0))
        self.reused = 0

    def to_map(self) -> list[ChunkToAsk]:
        """This shard's chunks that have to be asked about; all others are given the map of an equal text."""
        self.reuse()
        return one_per_text(self.repository.unmapped(self._context.shard, self._context.shards))

    def reuse(self) -> None:
        """Give chunks the map that an equal text has."""
        self.reused += self.repository.reuse(self._context.shard, self._context.shards)

    def add(self, answered: Answered[EntityMap]) -> None:
        """Take in what came of one chunk; stored from time to time."""
        self.bill.add(answered.chunk, answered.calls)
        if answered.status == "failed":
            self.counts["failed"] += 1
        else:
            # What was refused or never valid is settled too: asked again it would be paid for again.
            self._maps.append(self._checked(answered))
        if len(self._maps) + len(self.bill.calls) >= STORE_EVERY:
            self.store()

    def store(self) -> None:
        """Store what was taken in since the last time."""
        self.repository.store(self._context.run_id, self._maps, self.bill.calls)
        self._maps, self.bill.calls = [], []

    def _checked(self, answered: Answered[EntityMap]) -> StoredMap:
        chunk = answered.chunk
        found, dropped = ground(answered.value or EntityMap((), ()), f"{chunk.title}\n{chunk.text}")
        rendered = render(found)
        map_tokens = self._count_tokens(rendered)
        text_tokens = self._count_tokens(embedding_text(chunk.title, chunk.text))
        status = answered.status if answered.value is None else fit(map_tokens, text_tokens, rendered)
        self.counts[status] += 1
        self.counts.update({f"dropped_{reason}": number for reason, number in dropped.items()})
        return StoredMap(
            chunk.chunk_id, chunk.content_hash, self.inquiry.prompt_hash, self._model, status,
            json.dumps(asdict(found)), dropped.total(), map_tokens, text_tokens,
        )  # fmt: skip


def map_entities(context: Context) -> Outcome:
    """Have maps written of this shard's chunks whose text this model was never asked about with this prompt.

    Results are stored every few chunks, so a killed task pays for nothing twice but what was not stored yet. Where a
    budget is used up the step ends early; texts without a map are shown to the training as they are.

    Args:
        context: of the step.

    Returns:
        Counts of new maps by what came of them, of what their texts do not confirm, tokens and cost; of chunks that
        needed no call, and of those left over by the budget; of all maps in store that training can use, and by how
        much they are shorter than their texts.

    Raises:
        SettingsError: maps are wanted, and there is no language model.
        StepError: more chunks failed than the settings allow.
    """
    settings = context.settings
    if not settings.map_rate:
        return Outcome(note="no entity maps are wanted (HEAL_MAP_RATE=0)")
    settings.require_llm()
    mapping = Mapping(context)
    chunks = mapping.to_map()
    budget = budget_of(context.conn, settings, context.run_id)
    allowance = SpendLimit(budget, settings, mapping.inquiry, chunks, mapping.store)
    allowance.spend(partial(make_llm(settings).ask, mapping.inquiry), mapping.add, context.progress)
    mapping.reuse()
    counts, over_budget = mapping.counts, len(chunks) - allowance.handed_out
    refuse_if_failing(settings, "entity maps", counts["failed"], allowance.handed_out)
    usable = mapping.repository.usable()
    note = (
        f"{counts['ok']} entity maps of {allowance.handed_out} chunks by {settings.llm_model}, {counts['failed']} "
        f"failed; the {usable.count} in store are {usable.reduction:.1%} shorter than their texts (APEX: "
        f"{PUBLISHED_REDUCTION:.1%})"
    )
    if over_budget:
        note += f"; the budget is used up: {over_budget} chunks are left for the next run"
    return Outcome(
        counts={
            **counts, **mapping.bill.figures(), "reused": mapping.reused, "over_budget": over_budget,
            "usable": usable.count, "reduction": round(usable.reduction, 4),
        },
        note=note,
    )  # fmt: skip


MAP_ENTITIES = Step("map_entities", map_entities, None)
