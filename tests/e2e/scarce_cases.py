"""What each step is to do without, and what it has to say then."""

from dataclasses import dataclass
from typing import Any

from tests.e2e.scarcity import FIRST


@dataclass(frozen=True)
class Case:
    """What a step lacks, from which statement on, and a part of what it has to say."""

    resource: str
    detail: Any
    says: str = ""  # empty: the step may also go through

    @property
    def after_maintenance(self) -> bool:
        """The clock jumps and maintenance runs, before the step."""
        return self.resource == "clock" and not self.detail[1]

    @property
    def what(self) -> str:
        """The detail in words."""
        if self.resource == "connections":
            return "max_connections" if self.detail == "all" else f"a role's limit of {self.detail}"
        if self.resource in ("disk", "server disk"):
            return "" if self.detail == FIRST else str(self.detail)
        first, second = self.detail
        if self.resource == "memory":
            return f"{first:g} MB more" + ("" if second == FIRST else f" from {second}")
        return (
            f"{first}, {second} s"
            if self.resource in ("lock", "reader")
            else f"{first:+} h {second or 'before the step'}"
        )


DISK = "the disk is full .* free space or move HEAL_VAR_DIR"
SERVER = "the disk of the database server is full; free space there"
MEMORY = "no memory left.* (HEAL_|more memory)"
CONNECTIONS = "raise max_connections or the role's CONNECTION LIMIT"
CASES: dict[str, list[Case]] = {
    "ingest": [Case("server disk", "INSERT INTO heal.document", SERVER), Case("connections", 1, CONNECTIONS)],
    "first_light": [
        Case("server disk", "CREATE TEMP TABLE staging", SERVER),
        Case("server disk", "COPY .*vec_g", SERVER),
        Case("server disk", "USING hnsw", SERVER),
        Case("lock", ("heal.chunk", 2)),
    ],
    "label": [Case("disk", FIRST, DISK), *(Case("memory", (size, FIRST), MEMORY) for size in (0.1, 4))],
    "ask": [Case("server disk", "INSERT INTO .*question", SERVER), Case("connections", 2, CONNECTIONS)],
    "mine": [Case("disk", FIRST, DISK)],
    "train": [Case("disk", FIRST, DISK), *(Case("memory", (size, FIRST), MEMORY) for size in (1, 30, 200))],
    "embed": [Case("server disk", "COPY ", SERVER), Case("memory", (4, FIRST), MEMORY)],
    "choose": [
        Case("server disk", "heal.evaluation", SERVER),
        *(Case("memory", (size, FIRST), MEMORY) for size in (0.1, 2)),
        *(Case("memory", (size, "heal.to_words"), MEMORY) for size in (0.1, 0.5)),  # the lexicon is fitted next
        Case("connections", 0, CONNECTIONS),
    ],
    "publish": [
        Case("server disk", "COPY .*vec_g", SERVER),
        Case("server disk", "COPY .*lex_g", SERVER),
        Case("server disk", "PRIMARY KEY", SERVER),
        Case("server disk", "USING hnsw", SERVER),
        Case("memory", (0.1, FIRST)),  # its 75 kB of vectors may fit into what the process has
        Case("connections", "all", CONNECTIONS),
        Case("connections", 2, CONNECTIONS),
        Case("lock", ("heal.embedding", 60)),
        Case("lock", ("heal.generation", 60)),
        Case("lock", ("served", 60)),
        Case("reader", ("heal.embedding", 120), "an open transaction kept heal.embedding locked; .*pg_stat_activity"),
    ],
    "nudge_live": [
        Case("server disk", "CREATE TEMP TABLE staging", SERVER),
        Case("memory", (0.1, FIRST), MEMORY),
        Case("lock", ("served", 2)),
        Case("lock", ("heal.step_result", 2)),
    ],
    "report": [Case("disk", FIRST, DISK), Case("lock", ("heal.run", 2))],
    "maintain": [Case("lock", ("heal.chunk", 2)), Case("connections", 2, CONNECTIONS)],
}


for between in ("label", "embed", "choose", "publish", "nudge_live"):
    CASES[between] += [Case("clock", (25, "")), Case("clock", (-25, ""))]
for hours in (25, -25):
    CASES["choose"].append(Case("clock", (hours, "INSERT INTO .*evaluation")))
    CASES["publish"].append(Case("clock", (hours, "VACUUM")))
