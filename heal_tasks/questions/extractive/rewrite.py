"""Turns a sentence into a claim or a question by deleting, moving and inverting words, where that stays grammatical.

There is no parser: only constructions whose boundaries are marked by a closed class of words are changed (auxiliaries,
verbs from two lists, subordinators). A sentence that fits none gives nothing: no question is better than nonsense,
because questions also measure retrieval.
"""

import re

from heal_tasks.questions.extractive.words import content_words, rarity, word_list, words

_CONNECTIVE = re.compile(
    r"(?:However|Moreover|Furthermore|In addition|Additionally|Therefore|Thus|Hence|Consequently|Accordingly|Finally"
    r"|Lastly|Interestingly|Importantly|Notably|In contrast|By contrast|In conclusion|In summary|To summarize|Overall"
    r"|Taken together|Together|Collectively|Here|Similarly|Likewise|Conversely|Nevertheless|Nonetheless|Instead|Also"
    r"|For (?:example|instance)|In particular|Specifically|Surprisingly|Remarkably|Strikingly|Recently|As a result"
    r"|On the (?:other|one) hand|To our knowledge|Of note|In fact|Indeed|(?:Please )?[Nn]ote(?: also)?(?: that)?"
    r"|In general|In this (?:study|paper|work|article|report|review)|In the present study|Unfortunately|Fortunately"
    r"|First|Second|Third|Firstly|Secondly|Thirdly|In other words|That is|More precisely|As such|And|But|So|Yet)\b,? +"
)
LABEL = re.compile(
    r"(?:(?:BACKGROUND|OBJECTIVES?|METHODS?|RESULTS?|CONCLUSIONS?|PURPOSE|INTRODUCTION|FINDINGS?|INTERPRETATION|AIMS?"
    r"|CONTEXT|DESIGN|SETTING|PARTICIPANTS|PATIENTS|SIGNIFICANCE|IMPORTANCE|RATIONALE|DISCUSSION|LIMITATIONS?|DATA"
    r"|MATERIALS|SUMMARY|MAIN OUTCOME MEASURES?|PRINCIPAL|MEASUREMENTS?|AND|OF)\b[:/. ]*)+(?=[A-Z0-9])"
    r"|(?:Background|Objectives?|Methods?|Results?|Conclusions?|Purpose|Introduction|Findings|Aims?|Significance|Context)"
    r"(?:: *|(?=[A-Z]))"
    r"|Publisher Summary "
)
"""The heading of a part of an abstract, before its first sentence."""
_REPORT = re.compile(
    r"(?:(?:Here|In this \w+|Together|Therefore|Thus),? )?"
    r"(?:[Ww]e|[Tt]he authors|(?:[Oo]ur|[Tt]hese|[Tt]his|[Rr]ecent|[Pp]revious) \w+|[Ii]t|[Rr]esults|[Ff]indings"
    r"|[Ss]tudies|[Ee]vidence|[Tt]he (?:present |current )?(?:results?|data|findings?|study))"
    r"(?: [\w\-]+){0,5}? (?:show(?:s|ed|n)?|finds?|found|(?:suggest|demonstrat|report|conclud|reveal|indicat|propos"
    r"|hypothesi[sz]|confirm|observ|establish|identifi|not|believ|argu|discover|assum|impli|notic|recommend|expect)"
    r"(?:e?d|e?s)?|propose|indicate|demonstrate|conclude|imply|believe|argue|assume|known|thought|evidence)"
    r"(?: here| previously| recently| strongly)? that "
)
_DROPPED_LEAD = re.compile(
    r"(?:Although|Though|While|Whereas|Despite|Using|Based on|Given|Because|Since|To|As) [^,;:]{3,90}, +"
)
_MOVED_LEAD = re.compile(
    r"((?:In|Among|During|For|At|With|Within|On|Under|Upon|By|When|If|After|Before|Unless|Until|Without|Through"
    r"|Following) [^,;:]{2,70}), +(?:then +)?(?!(?:and|or|but|which|who|where|with|in|as|otherwise)\b)"
    r"((?:[^\s,;:]+ +){4}.+)"
)
_TAIL = re.compile(
    r"(?:, (?:which|who|whom|whose|where|whereas|while|although|though|but|and thus|and therefore|suggesting|indicating"
    r"|thereby|including|such as|leading|resulting|making|i\.e\.|e\.g\.|for example|as well as|and it|and they|and we"
    r"|so)\b| as well as | in order to | and thereby |; | -- | – |: ).*$"
)
_ASIDE = re.compile(r"\s+(?:\([^()]*\)|\[[^\[\]]*\])(?![\w\-])")
_ADVERB = re.compile(
    r"\b(?:also|however|therefore|thus|strongly|markedly|previously|recently|highly|very|currently|furthermore|moreover|given"
    r"|specifically|particularly|importantly|simply|actually|really|basically|essentially|successfully|interestingly"
    r"|indeed|hence|surprisingly|notably|remarkably|dramatically|clearly|well|in fact|further|just|easily) +"
)

# Words and symbols that cannot be understood outside their context.
_DEICTIC = re.compile(
    r"\b(?:this|these|those|they|them|he|she|we|our|ours|us|here|above|below|following|former|latter|aforementioned|such"
    r"|i|my|your|you|previous section|it|there|herein|see|figure|fig|table|section|chapter|eq|equation|example)\b",
    re.IGNORECASE,
)
_SYMBOLS = re.compile(r"[=\[\]{}\\<>$|~^;]|->|--| - |\.\.\.|…|::|\w\(|__|\*")

_AUXILIARY = {
    "is", "are", "was", "were", "can", "may", "might", "could", "should", "must", "will", "would", "has", "have",
}  # fmt: skip
_INNER = {
    "that", "which", "who", "whose", "whom", "where", "when", "if", "because", "while", "although", "than", "whether",
    "how", "what", "why", "not", "but", "then", "to", "so", "unless", "until", "since", "otherwise",
}  # fmt: skip
_REASON = re.compile(r" (?:because(?: of)?|due to|owing to|thanks to) .*$")
_MEANS = re.compile(r"^([\w\-]+) (?:by \w+ing|using|via|through|with the help of|by means of)\b.*$")
_MOMENT = re.compile(r"^([\w\-]+(?: (?:to|in|by|from|with) [\w\- ]+?)?) (?:if|when|once|whenever) .*$")
_RAISED = re.compile(
    r"(?:(Exception|Error|Warning|Signal|Event) )?([Rr]aised|[Ii]ssued|[Ee]mitted|[Ss]ent) (?:when|if) (.+)"
)
_KIND = re.compile(
    r"(?:(?:An?|The) )?((?:Abstract |Mixin |Helper |Container )?(?:[Bb]ase )?[Cc]lass|Mixin|Decorator|Wrapper"
    r"|Context manager|Interface|Container) ((?:for|to|around) .+)"
)
_TRUTH = re.compile(r"(?:True |true )?(?:if|whether|when) (.+)")
_NOT_AN_OBJECT = {"of", "for", "to", "is", "are", "was", "in", "by", "and", "or", "with", "that", "which", "if", "on"}
_MOST_QUESTION_WORDS = 22
_MOST_CLAIM_WORDS = 26
_FEWEST_TELLING = 2
_NOUN_ENDINGS = (
    "tion", "tions", "sion", "ment", "ments", "ness", "ity", "ing", "ism", "ance", "ence", "ure", "ants", "ed",
)  # fmt: skip


def reduced(text: str) -> str:
    """Remove labels, connectives, asides, reporting frames, adverbs and trailing clauses from a sentence.

    Its final punctuation goes, too, and a leading condition or circumstance is moved to the end.
    """
    text = _ASIDE.sub("", text).strip().rstrip(".!?;: ")
    text = LABEL.sub("", text, count=1)
    for _ in range(3):
        for frame in (_CONNECTIVE, _REPORT):
            match = frame.match(text)
            text = _upper_first(text[match.end() :] if match else text)
    lead = _DROPPED_LEAD.match(text)
    if lead and len(text) - lead.end() > 30:
        text = _upper_first(text[lead.end() :])
    shorter = _TAIL.sub("", text)
    if len(words(shorter)) >= 6:
        text = shorter
    moved = _MOVED_LEAD.fullmatch(text)
    if moved and "," not in moved[2]:
        text = f"{_upper_first(moved[2])} {moved[1][0].lower()}{moved[1][1:]}"
    return " ".join(_ADVERB.sub("", text).split())


def as_claim(text: str) -> str | None:
    """Make a claim that can be understood by itself of a reduced sentence; None where it is not one."""
    parts = text.split()
    if len(parts) > _MOST_CLAIM_WORDS or not _sound(text, fewest=6):
        return None
    first = parts[0].casefold().rstrip(",")
    if first in word_list("openers") or _base(first, "imperatives") or _telling(text) < _FEWEST_TELLING:
        return None
    return f"{text}." if _verb_place(parts) is not None or any(_verbal(part.casefold()) for part in parts[1:]) else None


def as_question(text: str) -> str | None:
    """Make a question that a reduced sentence answers; None where no template certainly fits."""
    if not _sound(text, fewest=4):
        return None
    parts = text.split()
    question = _from_summary(parts) or _from_statement(parts)
    if question is None or not 4 <= len(words(question)) <= _MOST_QUESTION_WORDS or len(content_words(question)) < 2:
        return None
    return question


def _from_summary(parts: list[str]) -> str | None:
    """Question from a documentation summary: "Compute X.", "Raised when X.", "Base class for X."."""
    text, rest = " ".join(parts), " ".join(parts[1:])
    if match := _RAISED.fullmatch(text):
        return f"Which {(match[1] or 'exception').lower()} is {match[2].lower()} when {match[3]}?"
    if match := _KIND.fullmatch(text):
        return f"Which {match[1].lower()} is there {match[2]}?"
    verb = _base(parts[0].casefold(), "imperatives")
    if verb is None or not rest or parts[1] in _NOT_AN_OBJECT:
        return None
    if verb in {"return", "check", "test", "determine"} and (match := _TRUTH.fullmatch(rest)):
        return f"How do I check whether {match[1]}?"
    return f"How do I {'get' if verb == 'return' else verb} {rest}?"


def _from_statement(parts: list[str]) -> str | None:
    """Question from subject, verb and rest: for the reason, the means, the moment, the subject, or yes and no."""
    place = _verb_place(parts)
    if place is None or place + 2 >= len(parts):
        return None
    subject, verb, rest = _lower_first(parts[:place]), parts[place].casefold(), " ".join(parts[place + 1 :])
    if verb in _AUXILIARY:
        front, tail = verb, rest
    else:
        base = _base(verb, "assertions")
        front, tail = ("do" if base == verb else "does"), f"{base} {rest}"
    if _telling(" ".join(parts)) < _FEWEST_TELLING:
        return None
    specific = sum(rarity(word) > 0.6 for word in content_words(subject)) >= 2
    if specific and (shorter := _REASON.sub("", tail)) != tail:
        return f"Why {front} {subject} {shorter}?"
    if specific and verb in _AUXILIARY and _participle(rest.split()[0].casefold()):
        if match := _MEANS.match(rest):
            return f"How {verb} {subject} {match[1]}?"
        if match := _MOMENT.match(rest):
            return f"When {verb} {subject} {match[1]}?"
    if place <= 3 and _telling(rest) > _FEWEST_TELLING and verb not in {"has", "have", "are", "were"} and front != "do":
        return f"What {verb} {rest}?"
    return f"{front.capitalize()} {subject} {tail}?"


def _verb_place(parts: list[str]) -> int | None:
    """Index of the finite verb, if everything before it is certainly one subject."""
    if parts[0].casefold().rstrip(",") in word_list("openers") or _DEICTIC.fullmatch(parts[0]):
        return None
    for place, part in enumerate(parts[:13]):
        word = part.casefold()
        following = parts[place + 1].casefold() if place + 1 < len(parts) else ""
        if place and word in _AUXILIARY:
            return place if word not in {"has", "have"} or _participle(following) else None
        if word in _INNER or part.endswith((",", ";", ":")):
            return None
        if place and following not in {"by", "of"} and (base := _base(word, "assertions")):
            plural = base == word
            before = parts[place - 1].casefold()
            ends_plural = before.endswith("s") and not before.endswith(("ss", "us", "is"))
            if plural == ends_plural and before not in word_list("function") and not before.endswith("ly"):
                return place
    return None


def _sound(text: str, fewest: int) -> bool:
    found = words(text)
    return (
        len(found) >= fewest
        and not _DEICTIC.search(text)
        and not _SYMBOLS.search(text)
        and text.count("(") == text.count(")")
        and text.count('"') % 2 == 0
        and (text[0].isupper() or not text.split()[0].isalpha())
        and any(rarity(word) > 0.75 for word in content_words(text))
        and sum(part[:1].isdigit() for part in text.split()) <= 2
    )


def _telling(text: str) -> int:
    """Number of words rare enough to find a text by."""
    return sum(rarity(word) > 0.8 for word in content_words(text))


def _verbal(word: str) -> bool:
    return word in _AUXILIARY or (word.endswith("ed") and "-" not in word) or _base(word, "assertions") is not None


def _base(word: str, listed: str) -> str | None:
    """Base form of a listed verb in the base form or the third person."""
    candidates = (word, re.sub("ies$", "y", word), word.removesuffix("s"), word.removesuffix("es"))
    return next((candidate for candidate in candidates if candidate in word_list(listed)), None)


def _participle(word: str) -> bool:
    return word.endswith("ed") or word in word_list("participles")


def _lower_first(parts: list[str]) -> str:
    """Join words, the first in lower case unless it may be a proper name: not listed, no ending of abstract nouns."""
    first, word = parts[0], parts[0].casefold()
    common = word in word_list("function") or rarity(word) < 1 or word.endswith(_NOUN_ENDINGS)
    return " ".join([word if (common and first[1:].islower()) or len(first) == 1 else first, *parts[1:]])


def _upper_first(text: str) -> str:
    first = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text
