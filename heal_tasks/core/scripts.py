"""Words of texts in every script, as PostgreSQL's parser with ``heal.spaced`` finds them.

Chinese, Japanese, Thai, Lao, Khmer and Burmese are written without blanks between words, and Korean joins particles to
its words. A run of such letters becomes its letters and its overlapping pairs of letters. Retrieval of strings of
a translated user interface (794 Chinese, 555 Japanese, 541 Thai, 797 Korean; mean reciprocal rank): .516, .468, .458
and .473; by pairs alone .491, .446, .459 and .479, where a question of one letter finds nothing; by pairs and triples
.483, .438, .460 and .470; by Korean words .462.
"""

import re
import unicodedata
from collections import Counter
from functools import cache

WITHOUT_BLANKS = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46"  # Thai
    "\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd\u0ec0-\u0ec6\u0edc-\u0edf"  # Lao
    "\u1000-\u102a\u103f\u1050-\u1055"  # Burmese
    "\u1780-\u17b3\u17d7"  # Khmer
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff"  # Japanese, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)
"""Letters of the scripts without blanks between words, for a character class of a regular expression."""

PAIRED = WITHOUT_BLANKS + "\uac00-\ud7a3"
"""The letters whose runs become pairs: these and Korean."""

MARKS = (
    "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"
    "\u102b-\u103e\u1056-\u1059\u17b4-\u17d3\u17dd\u3099\u309a"
)
"""Combining marks of the same scripts; one stays with the letter before it."""

_WIDE = [*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B), *range(0xFF66, 0xFFA0)]
"""Full-width digits and Latin letters, half-width katakana."""

PUNCTUATION = (
    "\u00a0\u00a1\u00ab\u00b7\u00bb\u00bf\u0387\u0589\u05be\u05c0\u05c3\u060c\u061b\u061f\u066a-\u066d"
    "\u06d4\u0964\u0965\u0e4f\u0e5a\u0e5b\u0f0b-\u0f12\u0f14\u104a-\u104f\u1361-\u1368\u17d4-\u17d6"
    "\u17d8-\u17da\u2000-\u200b\u200e-\u202f\u2030-\u205e\u2190-\u245f\u2500-\u2775\u2794-\u2bff"
    "\u3000-\u3004\u3008-\u3020\u3030\u30fb\ufe10-\ufe19\ufe30-\ufe6b\uff01-\uff0f\uff1a-\uff20"
    "\uff3b-\uff40\uff5b-\uff65\U0001f000-\U0001f0ff\U0001f200-\U0001faff"
)
"""Punctuation and symbols beyond ASCII separate words; a server whose character type is C takes them for letters."""

_USUAL_WIDTH = {code: unicodedata.normalize("NFKC", chr(code)) for code in _WIDE}
_PUNCTUATION = re.compile(f"[{PUNCTUATION}]")
PAIR = re.compile(f"([{PAIRED}][{MARKS}]*)([{PAIRED}][{MARKS}]*)")
"""A pair of letters of a script whose runs become pairs."""
_LETTER, _BEFORE, _AFTER = f"([{PAIRED}][{MARKS}]*)", f"[{PAIRED}{MARKS}]", f"[{PAIRED}]"
# For a letter alone, the first, the last and the others: "abcd" becomes "a ab b bc c cd d".
_PAIRS = (
    (re.compile(f"(?<!{_BEFORE}){_LETTER}(?!{_BEFORE})"), r" \1 "),
    (re.compile(f"(?<!{_BEFORE}){_LETTER}(?={_AFTER})"), r" \1 \1"),
    (re.compile(f"(?<={_BEFORE}){_LETTER}(?!{_BEFORE})"), r"\1 \1 "),
    (re.compile(f"(?<={_BEFORE}){_LETTER}(?={_AFTER})"), r"\1 \1 \1"),
)
_ASCII_WORD = re.compile(r"\w+")


def spaced(text: str) -> str:
    """Put blanks between the words of a text, and between the letters and pairs of letters in runs without blanks.

    The text is composed (NFC), full-width Latin and half-width katakana get their usual width, and punctuation beyond
    ASCII becomes blanks. An ASCII text is returned as it is.
    """
    if text.isascii():
        return text
    text = unicodedata.normalize("NFC", text.translate(_USUAL_WIDTH))
    text = _PUNCTUATION.sub(" ", text)
    for pattern, replacement in _PAIRS:
        text = pattern.sub(replacement, text)
    return text


def join(word: str, pair: str) -> str:
    """A word of letters in pairs, made longer by a pair that overlaps its beginning or end; empty if none does."""
    beginning, found = PAIR.match(word), PAIR.fullmatch(pair)
    if beginning is None or found is None:
        return ""
    if word.endswith(found[1]):
        return word + found[2]
    return found[1] + word if beginning[1] == found[2] else ""


def letters_or_words(text: str) -> list[str]:
    """Words of letters, digits and underscores; in scripts without blanks each letter with its marks is a word."""
    return (_ASCII_WORD if text.isascii() else _word()).findall(text)


@cache
def _word() -> re.Pattern[str]:
    return re.compile(rf"[{WITHOUT_BLANKS}][{MARKS}]*|(?:[^\W{WITHOUT_BLANKS}][{combining()}]*)+")


@cache
def combining() -> str:
    """All combining marks, for a character class of a regular expression: ``\\w`` does not match them."""
    return "".join(mark for code in range(0x300, 0x1F000) if unicodedata.category(mark := chr(code))[0] == "M")


def script_of(text: str) -> str:
    """The script of most of a text's letters, by its name in Unicode: "Latin", "Cyrillic", …; empty without letters.

    Japanese and Chinese share the Chinese script; a text with kana is "Japanese".
    """
    names = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in text if letter.isalpha())
    if not names:
        return ""
    if names["HIRAGANA"] + names["KATAKANA"]:
        kana = names.pop("HIRAGANA", 0) + names.pop("KATAKANA", 0)
        names["JAPANESE"] = kana + names.pop("CJK", 0)
    name = names.most_common(1)[0][0]
    return {"CJK": "Chinese", "HANGUL": "Korean"}.get(name, name.capitalize())
