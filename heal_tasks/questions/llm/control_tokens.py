"""Breaks the control tokens of chat templates where a document has them.

Servers tokenize the whole conversation at once, so ``<|im_end|>`` in a text becomes the token that ends its message,
and what follows can pose as the system's or the user's. Which tokens a model has, a client does not know. So every text
in the form of one is broken by a blank of no width, which the checks of quotations ignore (``filters.normalise``).
"""

import re

_BREAK = "\u200b"

# ChatML, Llama 3, Phi, gpt-oss: <|name|>, DeepSeek with U+FF5C; Gemma: <|turn>, <turn|>, <end_of_turn>, <bos>; Llama 2
# and Mistral: <s>, [INST], <<SYS>>; EXAONE: [|user|]; GLM: [gMASK]; reasoning and calls of tools: <think>.
_TOKEN = re.compile(
    r"<(?=/?[|\uff5c]?[\w:.\u2581-]{1,60}[|\uff5c]?>)|\[(?=/?(?:\|[\w-]{1,60}\||g?[A-Z][A-Z_]{1,60})\])", re.ASCII
)
_BROKEN = re.compile(f"(?<=[<\\[]){_BREAK}")


def broken(text: str) -> str:
    """Put a blank of no width behind the first character of whatever may be a control token."""
    return _TOKEN.sub(lambda found: found[0] + _BREAK, text)


def mended(text: str) -> str:
    """Take out the blanks that ``broken`` has put in, where a reply repeats them."""
    return _BROKEN.sub("", text)
