"""Step map_entities: an entity map of every chunk that has none yet, for training to show it instead of the text."""

import json
from dataclasses import asdict
from functools import partial

from heal_tasks.core.models import resolve_model
from heal_tasks.questions.maps.entity_maps import DROP_REASONS, EntityMap, ground
from heal_tasks.questions.maps.map_prompt import map_prompt
from heal_tasks.questions.maps.rendering import PUBLISHED_REDUCTION, fit, render
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk
from heal_tasks.sources.chunking import embedding_text, token_counter
from heal_tasks.steps.engine.runner import Context, Outcome, Step
from heal_tasks.steps.writing.llm_calls import (
    AffordableChunks,
    Recorder,
    left_over_note,
    make_llm,
    one_per_text,
)
from heal_tasks.store.db import Connection
from heal_tasks.store.questions.entity_maps import MapRepository, StoredMap

_STATUSES = ("ok", "empty", "long", "short", "refused")


def maps_by(conn: Connection, model: str) -> MapRepository:
    """The maps that a language model gives to this version's prompt."""
    return MapRepository(conn, map_prompt().prompt_hash, model)


class MapRecorder(Recorder[EntityMap, StoredMap]):
    """Records the entity maps of one shard, checked against their texts."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self.spec, self.repository = map_prompt(), maps_by(context.conn, settings.llm_model)
        self._count_tokens = token_counter(resolve_model(settings.model))
        author = Author("llm", settings.llm_model, self.spec.prompt_hash)
        names = (*_STATUSES, *map("dropped_{}".format, DROP_REASONS))
        super().__init__(context, "maps", author, self.repository.store, names)

    def to_map(self) -> list[ChunkToAsk]:
        """This shard's chunks that have to be asked about, one per text, after a ``reuse``."""
        self.reuse()
        return self.new_first(one_per_text(self.repository.unmapped(self.context.shard, self.context.shards)))

    def reuse(self) -> None:
        """Give chunks the map that an equal text has."""
        self.counts["reused"] += self.repository.reuse(self.context.shard, self.context.shards)

    def _row(self, answer: Answered[EntityMap]) -> StoredMap:
        chunk = answer.chunk
        found, dropped = ground(answer.value or EntityMap((), ()), f"{chunk.title}\n{chunk.text}")
        rendered = render(found)
        map_tokens = self._count_tokens(rendered)
        text_tokens = self._count_tokens(embedding_text(chunk.title, chunk.text))
        status = answer.status if answer.value is None else fit(map_tokens, text_tokens, rendered)
        self.counts[status] += 1
        self.counts.update({f"dropped_{reason}": number for reason, number in dropped.items()})
        return StoredMap(
            chunk.chunk_id, chunk.content_hash, self._author.prompt_hash, self._author.model, status,
            json.dumps(asdict(found)), dropped.total(), map_tokens, text_tokens,
        )  # fmt: skip


def map_entities(context: Context) -> Outcome:
    """Have maps written of this shard's chunks that have none by this prompt and model, as step ask has questions."""
    settings = context.settings
    if not settings.map_rate:
        return Outcome(note="no entity maps are wanted (HEAL_MAP_RATE=0)")
    settings.require_llm()
    recorder = MapRecorder(context)
    chunks = recorder.to_map()
    AffordableChunks(recorder, recorder.spec, chunks).ask(partial(make_llm(settings).ask, recorder.spec))
    recorder.reuse()
    counts = recorder.counts
    asked = sum(counts[status] for status in (*_STATUSES, "failed"))
    recorder.refuse_if_failing(counts["failed"], asked)
    usable = recorder.repository.usable()
    note = (
        f"{counts['ok']} entity maps of {asked} chunks by {settings.llm_model}, {counts['failed']} "
        f"failed; the {usable.count} in store are {usable.reduction:.1%} shorter than their texts (APEX: "
        f"{PUBLISHED_REDUCTION:.1%})"
    )
    return Outcome(
        counts={**recorder.figures(), "usable": usable.count, "reduction": round(usable.reduction, 4)},
        note=note + left_over_note(counts),
        undone=""
        if usable.count
        else "No entity map is usable, so training shows plain texts alone; heal.entity_map has why",
    )


MAP_ENTITIES = Step("map_entities", map_entities, None)
