"""Writes entity maps without a language model: noun phrases as entities; subject, verb and object as facts.

It reads the sentences that the extractive question writer reads. Every name and predicate is a run of words of the
text. A fact is only taken where its subject is named: pronouns are not resolved. Other languages than English give an
empty map, because the closed classes of words by which ``phrases`` finds verbs are English.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from heal_tasks.core.ids import fingerprint
from heal_tasks.questions.extractive.any_language import is_english, mostly_latin
from heal_tasks.questions.extractive.prose import plain, sentences
from heal_tasks.questions.extractive.rewrite import LABEL
from heal_tasks.questions.extractive.words import content_words, rarity
from heal_tasks.questions.maps.entity_maps import (
    MAX_ENTITIES,
    MAX_RELATIONS,
    EntityMap,
    EntityType,
    MapEntity,
    MapRelation,
    folded,
)
from heal_tasks.questions.maps.phrases import Phrase, phrases
from heal_tasks.questions.writer import Answered, Author, ChunkToAsk

MODEL = "extractive-maps-1"
AUTHOR = Author("extractive", MODEL, fingerprint([MODEL]))

_TITLE_WORDS = 8
"""A longer title is read as a sentence."""
_RARE = 0.85
_DATE = re.compile(
    r"(?:\d{1,2} )?(?:January|February|March|April|May|June|July|August|September|October|November|December)"
    r"(?: \d{1,2},?)?(?: \d{4})?|(?:1[5-9]|20)\d\d|\d{4}-\d\d-\d\d"
)
_AMOUNT = re.compile(r"[€$£¥]?\d[\d.,]*(?: ?%| \S+)?")


def write_maps(chunks: Iterable[ChunkToAsk]) -> Iterator[Answered[EntityMap]]:
    """The map of each chunk, in order."""
    for chunk in chunks:
        yield Answered(chunk, extract_map(chunk.title, chunk.text))


def extract_map(title: str, text: str) -> EntityMap:
    """The entity map of a text and its title; without entities where the text is not English or has no prose."""
    if not is_english(text):
        return EntityMap((), ())
    title = plain(title)
    made = _Map()
    about = made.entity(title) if 0 < len(title.split()) <= _TITLE_WORDS else None
    if title and about is None:
        made.read(phrases(title), None)
    for sentence in sentences(text):
        if mostly_latin(sentence.text):
            made.read(phrases(LABEL.sub("", sentence.text, count=1)), about)
    return made.finished()


_Half = tuple[int | None, str]
"""The source of a fact, if it is named, and the predicate."""


class _Map:
    """A map in the making; entities are numbered, and found again by their folded names."""

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._entities: list[MapEntity] = []
        self._relations: dict[tuple[int, str, int], MapRelation] = {}

    def entity(self, name: str) -> int | None:
        """The number of an entity; None for a name without a content word or number, or beyond the limit."""
        key = folded(name)
        if key not in self._names:
            kind = _type_of(name)
            if len(self._entities) == MAX_ENTITIES or not (content_words(name) or kind != "other"):
                return None
            self._names[key] = len(self._entities)
            self._entities.append(MapEntity(f"e{len(self._entities)}", kind, name, ()))
        return self._names[key]

    def relate(self, source: int | None, predicate: str, target: int | None) -> None:
        """Add a fact whose ends are known."""
        if source is None or target is None or source == target or len(self._relations) == MAX_RELATIONS:
            return
        ends = self._entities[source].id, self._entities[target].id
        self._relations.setdefault((source, predicate.casefold(), target), MapRelation(ends[0], predicate, ends[1]))

    def finished(self) -> EntityMap:
        """The map, without common words that are in no fact."""
        linked = {end for source, _, target in self._relations for end in (source, target)}
        kept = [
            entity
            for number, entity in enumerate(self._entities)
            if number in linked or any(rarity(word) > _RARE for word in content_words(entity.name))
        ]
        return EntityMap(tuple(kept), tuple(self._relations.values()))

    def read(self, found: Sequence[Phrase], about: int | None) -> None:
        """Add the entities and facts of a sentence; ``about`` is the subject of one that begins with its verb."""
        subject = about if found and found[0].kind == "verb" else None
        awaited = False  # the subject's finite verb has not come yet
        noun: int | None = None  # the noun phrase before, within the clause
        verb: _Half | None = None  # without an object so far
        held: _Half | None = None  # completed by the next noun phrase
        listed: _Half | None = None  # completed by the next member of a list
        for place, phrase in enumerate(found):
            before = found[place - 1].kind if place else "boundary"
            if phrase.kind == "noun":
                entity = self.entity(phrase.text)
                if entity is None:
                    continue
                noun, verb = entity, None
                if held is not None:
                    self.relate(*held, noun)
                    # "a role of A and B": B is a second role's, not a second object.
                    listed, held = None if " of " in phrase.text else held, None
                elif not awaited and _reaches_a_verb(found, place):
                    subject, awaited, listed = noun, True, None
                elif listed is not None and before in ("comma", "conjunction"):
                    self.relate(*listed, noun)
            elif phrase.kind == "preposition":
                if verb is None:
                    # A preposition after an object says how the subject acts on it, more often than which object.
                    source = noun if awaited or subject is None or phrase.text == "of" else subject
                    verb = (source, "")
                held, verb, listed = (verb[0], f"{verb[1]} {phrase.text}".strip()), None, None
            elif phrase.kind in ("verb", "link", "infinitive"):
                if phrase.kind == "infinitive":
                    held = (verb[0], f"{verb[1]} to {phrase.text}") if verb else (subject, phrase.text)
                elif phrase.kind == "link" or before == "relative":
                    held = (noun if before in ("noun", "relative") else subject, phrase.text)
                else:
                    if not awaited and before not in ("conjunction", "comma") and place:
                        subject = None
                    held, awaited = (subject, phrase.text), False
                verb, listed = held, None
            elif phrase.kind == "boundary":
                subject = noun = verb = held = listed = None
                awaited = False
            elif phrase.kind == "comma" or before in ("verb", "link", "infinitive"):
                verb = held = None


def _reaches_a_verb(found: Sequence[Phrase], place: int) -> bool:
    """True if a noun phrase, with what is joined to it, stands directly before a finite verb."""
    for phrase in found[place + 1 :]:
        if phrase.kind not in ("noun", "preposition", "link"):
            return phrase.kind == "verb"
    return False


def _type_of(name: str) -> EntityType:
    if _DATE.fullmatch(name):
        return "date"
    return "amount" if _AMOUNT.fullmatch(name) else "other"
