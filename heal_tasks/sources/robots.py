"""The rules of a ``robots.txt`` (RFC 9309): the longest rule that fits decides, ``*`` and ``$`` included.

Python's own parser takes the first rule that fits, and knows neither sign.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_BYTES = 500 * 1024
_AGENT = "heal-etl"


@dataclass(frozen=True)
class Robots:
    """The rules of a site for this crawler."""

    rules: tuple[tuple[str, bool], ...] = ()  # pattern of a path, and whether it is allowed
    delay_s: float = 0.0  # between two requests

    def allows(self, path: str) -> bool:
        """True if a path with its query may be fetched; of equally long rules the permission counts."""
        path = _plain(path)
        fitting = [(len(rule), allowed) for rule, allowed in self.rules if _fits(rule, path)]
        return max(fitting)[1] if fitting else True


def parse_robots(text: str) -> Robots:
    """Read the group of this crawler, or else the one of all; lines that are not understood are skipped."""
    groups: dict[str, tuple[list[tuple[str, bool]], list[float]]] = {}
    agents: list[str] = []
    in_rules = True
    for line in text.splitlines():
        key, _, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if key == "user-agent":
            if in_rules:
                agents, in_rules = [], False
            agents.append(value.lower())
            groups.setdefault(value.lower(), ([], []))
        elif key in ("allow", "disallow", "crawl-delay"):
            in_rules = True
            for rules, delays in (groups[agent] for agent in agents):
                if key == "crawl-delay":
                    delays.append(float(value) if re.fullmatch(r"\d{1,6}(\.\d+)?", value) else 0.0)
                elif value:
                    rules.append((_plain(value), key == "allow"))
    rules, delays = groups.get(_AGENT) or groups.get("*") or ([], [])
    return Robots(tuple(rules), max(delays, default=0.0))


def _plain(path: str) -> str:
    return unquote_to_bytes(path).decode("utf-8", "replace")


def _fits(rule: str, path: str) -> bool:
    """True if a path begins with a rule. The parts between asterisks are found one by one, so time is linear."""
    whole = rule.endswith("$")
    first, *parts = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    for part in parts[:-1]:
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    if not parts:
        return not whole or at == len(path)
    last = parts[-1]
    if whole:
        return len(path) - len(last) >= at and path.endswith(last)
    return path.find(last, at) >= 0
