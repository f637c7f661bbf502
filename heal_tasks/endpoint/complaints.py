"""Finds the error in the body of a reply, and the HTTP status that it stands for.

Gateways and servers send errors with status 200, in lists, beside a choice, as plain text or as a web page. With its
status known, an error is treated alike in every shape. Codes decide; words of the message do where there is no code.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

WEB_PAGE = 0
"""In place of a status: the reply is a web page, such as a form to sign in."""

REFUSAL_CODES = {"content_filter", "content_policy_violation", "data_inspection_failed", "DataInspectionFailed"}
"""Error codes by which an endpoint refuses a text."""

_TOO_LONG = re.compile(r"context.?(length|window|size)|string_above_max_length")

# llama.cpp answers 500 to a text that is longer than its batch, as if trying again could help.
_TOO_LARGE = re.compile(r"\b(?:input|prompt)\b.{0,60}?\b(?:too (?:large|long|big)|exceeds?)\b")
_BAD_BODY = 502  # neither JSON nor a page, such as JSON that was cut off
_UNKNOWN = 500
# Without dashes and capitals, in which servers differ.
_CODE_KEYS = {"code", "type", "status", "statuscode", "errorcode", "errortype"}
_MESSAGE_KEYS = {
    "message", "msg", "detail", "statusmsg", "errormsg", "errormessage", "faultstring", "title", "description", "error",
}  # fmt: skip
_DEEPEST = 3  # object or list in an error that is looked into
# An object without choices that has at least one of these is an error.
_SIGNS = ("errors", "detail", "message", "msg", "code", "error_code", "error_msg", "base_resp")

_NAMES = tuple(
    (status, re.compile(pattern))
    for status, pattern in (
        (402, r"insufficient(quota|balance|credit|fund)|billing|paymentrequired|exceededcurrentquota|arrear"),
        (429, r"ratelimit|throttl|resourceexhausted|toomany|quota"),
        (401, r"authentic|unauthori|apikey|invalid(key|token)|expiredtoken"),
        (403, r"permission|forbidden|denied"),
        (404, r"notfound|notexist|unknownmodel|nosuch"),
        (
            400,
            r"invalid|badrequest|validation|contextlength|content(filter|policy)|inspection|unsupported|toolong|above",
        ),
        (503, r"overload|unavailable|capacity|busy|timeout"),
        (500, r"server|internal|upstream|apierror"),
    )
)
_WORDS = tuple(
    (status, re.compile(pattern))
    for status, pattern in (
        (402, r"insufficient (balance|credit|fund|quota)|credit balance|(no|out of|more) credits?\b|payment required"
              r"|billing|余额不足|欠费"),
        (429, r"rate.?limit|too many requests|throttl|quota|slow down|(requests|tokens) per"),
        (401, r"(un|not )authori[sz]|authenticat|api.?key|(sign|log) ?in\b|invalid token"),
        (403, r"forbidden|permission|access denied|not allowed"),
        (413, r"too large|too long|context (length|window)|maximum (context|length)"),
        (404, r"not found|no such|unknown model|not exist|not available"),
        (400, r"invalid|unsupported|not supported|malformed|unexpected|unknown (field|parameter)"),
        (503, r"overload|unavailable|try again|timed? ?out|busy|maintenance"),
    )
)  # fmt: skip


def error_status(http_status: int, body: str, expected: str = "") -> int | None:
    """The HTTP status that a reply stands for if it is an error, or ``WEB_PAGE``; None if it is none.

    ``expected`` is the field that a usable reply has, such as ``choices``: an object without it may be an error.
    Where it is empty, only what is marked as an error is one.
    """
    found = _errors(body, expected)
    if http_status >= 400:
        # An account without credit is no rate limit, and no fault of the request.
        lacks_credit = any(_by_code(error) == 402 for error in found or ()) or (
            http_status in (400, 401, 403) and any(_by_words(error) == 402 for error in found or ())
        )
        too_large = http_status == 500 and _TOO_LARGE.search(error_text(body).lower())
        return 402 if lacks_credit else 413 if too_large else http_status
    if found is None:
        text = body.lstrip("\ufeff \t\r\n")
        return WEB_PAGE if text.startswith("<") else _by_words(text) or _BAD_BODY
    if not found:
        return None
    return _by_code(found[0]) or _by_words(found[0]) or _UNKNOWN


def error_text(body: str) -> str:
    """The first error in a body, or the whole body."""
    error = next(iter(_errors(body) or ()), body)
    return error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)


def error_codes(body: str) -> set[str]:
    """The codes of the errors in a body."""
    return {str(value) for error in _errors(body) or () for value in _values(error, _CODE_KEYS)}


def is_too_long(body: str) -> bool:
    """True if an error says that the text, with its reply, is longer than the model takes."""
    return bool(_TOO_LONG.search(error_text(body).lower()))


def _errors(body: str, expected: str = "choices") -> list[Any] | None:
    """The errors in a body, each a text or an object; None where the body is no JSON."""
    try:
        value = json.loads(body.lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None
    values = value if isinstance(value, list) else [value]
    return [error for item in values[:1] for error in _errors_in(item, expected)]


def _errors_in(value: object, expected: str) -> Iterator[Any]:
    if isinstance(value, str):
        yield value  # a text where an object belongs
    if not isinstance(value, dict):
        return
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if choice.get("error"):
        yield choice["error"]
    elif str(choice.get("finish_reason")).lower() == "error":
        yield choice
    error = value.get("error")
    if error and not (choice and isinstance(error, dict) and not any(_values(error, _MESSAGE_KEYS))):
        yield error
        return
    named = value.get("object") == "error" or value.get("type") == "error"
    if named or (
        expected and not value.get(expected) and (any(map(value.get, _SIGNS)) or _by_code(value) or _by_words(value))
    ):
        yield value


def _by_code(error: object) -> int | None:
    if isinstance(error, dict) and isinstance(error.get("detail"), list):
        return 422  # fields that a server of FastAPI's kind does not take
    codes = list(_values(error, _CODE_KEYS))
    names = ["".join(re.findall("[a-z]", str(code).lower())) for code in codes]
    by_name = [next((status for status, name in _NAMES if name.search(text)), None) for text in names]
    if 402 in by_name:
        return 402
    numbers = [int(found[1]) for code in codes if (found := re.match(r"([45]\d\d)(\.0$|\D{2}|$)", str(code)))]
    return next((status for status in (*numbers, *by_name) if status), None)


def _by_words(error: object) -> int | None:
    text = error if isinstance(error, str) else " ".join(map(str, _values(error, _MESSAGE_KEYS)))
    return next((status for status, words in _WORDS if words.search(text.lower())), None)


def _values(error: object, keys: set[str], depth: int = _DEEPEST) -> Iterator[object]:
    """Values in an error by these keys, those of the objects in it last."""
    if isinstance(error, dict):
        for key, value in error.items():
            if value and not isinstance(value, dict | list) and re.sub("[_-]", "", key).lower() in keys:
                yield value
    for item in error.values() if isinstance(error, dict) else error if isinstance(error, list) else ():
        if depth:
            yield from _values(item, keys, depth - 1)
