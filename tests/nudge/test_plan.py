"""The record of a chosen plan survives JSON without a change."""

import json

import numpy as np
import pytest

from heal_tasks.nudge.plan import PLANS, NudgeRecord, Plan


@pytest.mark.parametrize("centred", [False, True])
def test_a_record_is_the_same_after_json(centred):
    centre = np.random.default_rng(0).standard_normal(384).astype(np.float32) if centred else None
    record = NudgeRecord("N", 0.1 + 0.2, 2.0, centre, 5, 0.5, by_people=True)
    again = NudgeRecord.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record
    assert again.plan == Plan(centred, 2.0, 5, 0.5)
    if centred:
        assert again.centre.dtype == np.float32
        np.testing.assert_array_equal(again.centre, centre)
        assert again != NudgeRecord("N", 0.1 + 0.2, 2.0, centre + np.float32(1e-6), 5, 0.5, by_people=True)


def test_all_plans_are_possible_and_different():
    assert all(plan.possible for plan in PLANS)
    assert len(set(PLANS)) == len(PLANS) == 4
