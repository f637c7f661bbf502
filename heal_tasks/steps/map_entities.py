"""Step map_entities: an entity map of every chunk that has none yet, for training to show it instead of the text."""

import json
from dataclasses import asdict
from functools import partial

from heal_tasks.core.models import tokenizer_folder
from heal_tasks.core.settings import Settings
from heal_tasks.questions.extractive.any_language import is_english
from heal_tasks.questions.maps.entity_maps import DROP_REASONS, EntityMap, ground
from heal_tasks.questions.maps.extractive import AUTHOR, write_maps
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


def map_author(settings: Settings) -> Author:
    """The writer of entity maps that the settings choose, in this version."""
    return Author("llm", settings.llm_model, map_prompt().prompt_hash) if settings.llm_writes_maps else AUTHOR


def maps_by(conn: Connection, author: Author) -> MapRepository:
    """The maps by one writer."""
    return MapRepository(conn, author.prompt_hash, author.model)


class MapRecorder(Recorder[EntityMap, StoredMap]):
    """Records the entity maps of one shard, checked against their texts."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        author = map_author(settings)
        self.repository = maps_by(context.conn, author)
        self._count_tokens = token_counter(tokenizer_folder(settings.model))
        names = (*_STATUSES, *map("dropped_{}".format, DROP_REASONS), "other_language")
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
        self.counts["other_language"] += self._author == AUTHOR and not is_english(chunk.text)
        self.counts.update({f"dropped_{reason}": number for reason, number in dropped.items()})
        return StoredMap(
            chunk.chunk_id, chunk.content_hash, self._author.prompt_hash, self._author.model, status,
            json.dumps(asdict(found)), dropped.total(), map_tokens, text_tokens,
        )  # fmt: skip


def map_entities(context: Context) -> Outcome:
    """Have maps written of this shard's chunks that have none by this writer, as step ask has questions."""
    settings = context.settings
    if not settings.map_rate:
        return Outcome(note="no entity maps are wanted (HEAL_MAP_RATE=0)")
    settings.require_llm()
    author, recorder = map_author(settings), MapRecorder(context)
    chunks = recorder.to_map()
    if settings.llm_writes_maps:
        spec = map_prompt()
        AffordableChunks(recorder, spec, chunks).ask(partial(make_llm(settings).ask, spec))
    else:
        for answer in write_maps(context.track(chunks)):
            recorder.add(answer)
        recorder.store()
    recorder.reuse()
    counts = recorder.counts
    asked = sum(counts[status] for status in (*_STATUSES, "failed"))
    recorder.refuse_if_failing(counts["failed"], asked)
    usable = recorder.repository.usable()
    note = (
        f"{counts['ok']} entity maps of {asked} chunks by {author.model}, {counts['failed']} "
        f"failed; the {usable.count} in store are {usable.reduction:.1%} shorter than their texts (APEX: "
        f"{PUBLISHED_REDUCTION:.1%})"
    )
    if counts["other_language"]:
        note += f"; {counts['other_language']} chunks are not in English, and the {author.name} writer reads no other"
    return Outcome(
        counts={**recorder.figures(), "usable": usable.count, "reduction": round(usable.reduction, 4)},
        note=note + left_over_note(counts),
        undone=""
        if usable.count
        else "No entity map is usable, so training shows plain texts alone; heal.entity_map has why",
    )


def _inputs(context: Context) -> object:
    return context.settings.llm_model if context.settings.llm_writes_maps else ""


MAP_ENTITIES = Step("map_entities", map_entities, _inputs, of_run=True)
