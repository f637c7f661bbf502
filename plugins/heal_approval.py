"""The operator that asks a person whether the chosen generation may be published; waiting occupies no worker."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Context
from heal_alerts import AlertNotifier
from heal_connections import connect_store

from heal_tasks.core.corpora import corpus_of, in_corpus

APPROVAL_HOURS = 20
"""Longest wait for an answer: the next night's run starts after it, and heal_maintain drops what stands for a day."""


class ApproveOperator(ApprovalOperator):
    """Asks under Required Actions, unless step ``choose`` keeps the live vectors; no answer means no.

    A rejection skips nothing: step ``publish`` puts the candidate away and says so in the run's verdict.
    """

    template_fields: Sequence[str] = ("manifest",)

    def __init__(self, *, manifest: Any, **kwargs: Any) -> None:
        super().__init__(
            subject="Publish?",
            defaults=self.REJECT,
            response_timeout=timedelta(hours=APPROVAL_HOURS),
            notifiers=AlertNotifier("approval"),
            **kwargs,
        )
        self.manifest = manifest

    def execute(self, context: Context) -> Any:
        """Ask, or return the manifest where there is nothing to approve."""
        from heal_tasks.core.manifest import Manifest
        from heal_tasks.report.events import proposal

        with in_corpus(corpus_of(context["dag"].dag_id)), connect_store() as conn:
            asked = proposal(conn, Manifest(**self.manifest))
        if asked is None:
            return self.manifest
        self.subject, body = asked
        task = f"dags/{context['dag'].dag_id}/runs/{quote(context['run_id'], safe='')}/tasks/realign.choose"
        self.body = f"{body}\n\nMore in `heal.evaluation` and in the log of [choose]({task})."
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Return the manifest, with ref ``rejected`` where the answer is no."""
        answer = HITLOperator.execute_complete(self, context, event)
        if answer["chosen_options"] == [self.APPROVE]:
            return self.manifest
        user = answer["responded_by_user"]
        rejected = f"{user['name']} rejected it" if user else f"nobody approved it within {APPROVAL_HOURS} hours"
        return {**self.manifest, "refs": {**self.manifest["refs"], "rejected": rejected}}
