"""Entity maps, the facts of a text as typed entities, attributes and relations, and their check against the text.

The classes are also the JSON form in which models send maps and the store keeps them.

APEX-Embedding (Aviss 2024, arXiv 2410.18105) fine-tunes on Structured Entity Relationship Maps instead of plain text.
The idea is the paper's; the schema, the prompt, the check against the text and the rendering are ours.
"""

import re
import unicodedata
from collections import Counter
from dataclasses import replace
from operator import itemgetter
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from heal_tasks.questions.llm.replies import STRICT, TidyText

EntityType = Literal[
    "person", "organisation", "place", "date", "amount", "document", "product", "event", "clause", "other"
]
DropReason = Literal["name", "value", "label", "orphan"]
"""A name or value that is blank or not in the text; a key or predicate that is blank, longer than 5 words or has a
digit of its own; an attribute or relation whose entity was dropped."""
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)

MAX_ENTITIES = 40
MAX_RELATIONS = 60
MAX_LABEL_WORDS = 5

# Unlike the questions' `normalise`, which joins "Acme's" to "acmes" and so loses the word "acme".
_REMOVED = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
_BLANK = re.compile('["“”„‟«»*™℠⁰¹²³⁴⁵⁶⁷⁸⁹]')
_APOSTROPHES = re.compile("[`´‘’‚‛‹›ʼ]")
_QUOTING = re.compile(r"(?<!\w)'|'(?!\w)")
_DASHES = re.compile("[‐‑‒–—−]")
_LOOSE_UNIT = re.compile(r"(?<=[0-9]) (?=[%‰°€$£¥])|(?<=[€$£¥]) (?=[0-9])")

# A character that makes the word beside it another word. Scripts written without blanks, or with particles joined to
# the noun (Thai to Khmer, kana, Chinese characters, Hangul), have no such boundary.
_LETTER = re.compile(r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_NUMBER = re.compile(r"[0-9]+(?:[.,' ][0-9]+)*")
_VALUE = re.compile(
    r"(?P<whole>[1-9][0-9]{0,2}(?P<mark>[,' ])[0-9]{3}(?:(?P=mark)[0-9]{3})*|[0-9]+)(?P<part>\.[0-9]+)?"
)
_NOT_CUT_BEFORE, _NOT_CUT_AFTER = r"(?<![0-9])(?<![0-9][.,'])", r"(?![.,']?[0-9])"


@dataclass(frozen=True, slots=True, config=STRICT)
class MapAttribute:
    """A fact about one entity: a key in the model's words, and a value copied from the text."""

    key: TidyText
    value: TidyText


def _known_type(value: object) -> object:
    """Replace an unknown type by "other" instead of paying for another reply."""
    return value if value in get_args(EntityType) else "other"


@dataclass(frozen=True, slots=True, config=STRICT)
class MapEntity:
    """Something that a text names; relations use its id, which is only valid in its map."""

    id: TidyText
    type: Annotated[EntityType, BeforeValidator(_known_type)]
    name: TidyText
    attributes: tuple[MapAttribute, ...]


@dataclass(frozen=True, slots=True, config=STRICT)
class MapRelation:
    """A relation of two entities, given by their ids; the predicate is a short verb in the model's words."""

    source: TidyText
    predicate: TidyText
    target: TidyText


@dataclass(frozen=True, slots=True, config=STRICT)
class EntityMap:
    """The facts of one text; after grounding the entities are in the order in which the text names them."""

    entities: tuple[MapEntity, ...]
    relations: tuple[MapRelation, ...]


def folded(text: str) -> str:
    """Reduce a text to the characters that two spellings of the same name share.

    Compatibility forms are unified (NFKC), letters folded to lower case, quotation marks, trade marks and raised digits
    (footnotes) removed, dashes alike, blanks collapsed, and removed between a number and its unit sign.
    """
    text = _APOSTROPHES.sub("'", _BLANK.sub(" ", _REMOVED.sub("", text)))
    text = _DASHES.sub("-", unicodedata.normalize("NFKC", text).casefold())
    return _LOOSE_UNIT.sub("", " ".join(_QUOTING.sub(" ", text).split()))


def ground(entity_map: EntityMap, text: str) -> tuple[EntityMap, Counter[DropReason]]:
    """Drop whatever a text does not say, as a filter against hallucinations, or what a query does not mention.

    A name or value is kept if the text contains it in whole words, whatever its case, blanks and quotation marks.
    Numbers are compared by value ("1,000" is "1000", "5 %" is "5%", "20.00" is "20"), except in names of type date, and
    are not found inside longer ones. A comma before three digits is a thousands mark, as in English. Keys and
    predicates are the model's own words: they must be short and have no digits, unless the text contains them.

    ``text`` is everything that the model was shown, the title included; or a query. Returns the remaining map, and the
    number of dropped entities, attributes and relations by reason.
    """
    within = folded(text)
    dropped: Counter[DropReason] = Counter()
    placed: dict[str, tuple[tuple[int, str, str], MapEntity]] = {}
    for entity in entity_map.entities:
        place = _place(entity.name, within, verbatim=entity.type == "date")
        if place is None:
            dropped["name"] += 1
            dropped["orphan"] += len(entity.attributes)
            continue
        objections = [_objection(attribute, within) for attribute in entity.attributes]
        dropped.update(reason for reason in objections if reason)
        facts = zip(entity.attributes, objections, strict=True)
        kept = replace(entity, attributes=tuple(fact for fact, reason in facts if not reason))
        placed[entity.id] = ((place, folded(entity.name), entity.type), kept)
    relations = []
    for relation in entity_map.relations:
        if not {relation.source, relation.target} <= placed.keys():
            dropped["orphan"] += 1
        elif not _is_label(relation.predicate, within):
            dropped["label"] += 1
        else:
            relations.append(relation)
    ordered = sorted(placed.values(), key=itemgetter(0))
    # Unary plus removes the counts of 0.
    return EntityMap(tuple(entity for _, entity in ordered), tuple(relations)), +dropped


def _objection(attribute: MapAttribute, within: str) -> DropReason | None:
    if not _is_label(attribute.key, within):
        return "label"
    return "value" if _place(attribute.value, within) is None else None


def _is_label(label: str, within: str) -> bool:
    if not 0 < len(label.split()) <= MAX_LABEL_WORDS:
        return False
    return not any(character.isdigit() for character in label) or _place(label, within) is not None


def _place(name: str, within: str, *, verbatim: bool = False) -> int | None:
    """Place of a name in a folded text; None where it is not there, or has neither letter nor digit."""
    wanted = folded(name)
    if not any(character.isalnum() for character in wanted):
        return None
    pattern, end = "", 0
    for number in _NUMBER.finditer(wanted):
        digits = re.escape(number[0]) if verbatim else _any_writing(number[0])
        pattern += re.escape(wanted[end : number.start()]) + _NOT_CUT_BEFORE + digits + _NOT_CUT_AFTER
        end = number.end()
    pattern += re.escape(wanted[end:])
    written, place = re.compile(pattern), 0
    # The ends are looked at apart: compiled into every pattern, the class of letters took 7 ms a name.
    while found := written.search(within, place):
        start, end = found.span()
        cut_before = _LETTER.match(wanted) and _LETTER.match(within[start - 1 : start])
        if not (cut_before or (_LETTER.match(wanted[-1]) and _LETTER.match(within, end))):
            return start
        place = start + 1
    return None


def _any_writing(number: str) -> str:
    """Pattern for a number with and without thousands marks; dates and lists are matched as they are."""
    value = _VALUE.fullmatch(number)
    if value is None:
        return re.escape(number)
    whole, part = re.sub("[,' ]", "", value["whole"]), value["part"] or ""
    return re.sub(r"(?<=\d)(?=(?:\d{3})+$)", "[,' ]?", whole) + (re.escape(part) if part.strip(".0") else r"(?:\.0+)?")
