"""The record that passes from step to step in Airflow's XCom, and so is small: ids, URIs and counts, never data."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, field_validator

from heal_tasks.core.errors import StepError

MAX_MANIFEST_BYTES = 4096
MAX_TEXT_BYTES = 1500
"""Of a note, and of what is undone, as JSON; the rest of a longer one is cut off."""
READ_AGAIN = "read_again"
"""The ref of a first manifest that has ``ingest`` read every file, whether it has changed or not."""
T = TypeVar("T", int, str)


class Manifest(BaseModel, frozen=True):
    """Result of a step and input of the next."""

    run_id: str
    step: str = "start"  # the step that wrote it
    refs: dict[str, int | str] = {}  # ids and URIs that later steps need, accumulated along the run
    counts: dict[str, int | float] = {}  # numbers of this step, shown in the report
    note: str = ""  # one sentence for the log and the report
    undone: str = ""  # what the step was to do and had nothing for, and why; a part of the run's verdict

    @field_validator("note", "undone")
    @classmethod
    def _cut(cls, text: str) -> str:
        kept = text
        while len(json.dumps(kept)) > MAX_TEXT_BYTES:
            kept = kept[: len(kept) * 9 // 10]
        return kept if kept == text else f"{kept}..."

    def next(
        self, step: str, *, refs: dict[str, int | str], counts: dict[str, int | float], note: str, undone: str = ""
    ) -> "Manifest":
        """The manifest of the step after this one: refs add up, all else starts anew."""
        return Manifest(
            run_id=self.run_id, step=step, refs={**self.refs, **refs}, counts=counts, note=note, undone=undone
        )

    def number(self, name: str) -> int:
        """An integer ref of an earlier step; StepError if there is none."""
        return self._ref(name, int)

    def text(self, name: str) -> str:
        """A text ref of an earlier step; StepError if there is none."""
        return self._ref(name, str)

    def _ref(self, name: str, kind: type[T]) -> T:
        value = self.refs.get(name)
        if not isinstance(value, kind):
            raise StepError(
                f"missing {name!r}, which an earlier step should have produced (last step: {self.step!r}, refs: "
                f"{sorted(self.refs)}); run the steps in the order that `python -m heal_tasks --help` lists"
            )
        return value

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable dict; StepError above MAX_MANIFEST_BYTES: data belongs into store or artifacts."""
        value = self.model_dump(mode="json")
        size = len(json.dumps(value))
        if size > MAX_MANIFEST_BYTES:
            raise StepError(
                f"manifest of step {self.step!r} has {size} bytes; at most {MAX_MANIFEST_BYTES} are allowed"
            )
        return value
