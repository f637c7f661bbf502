"""Plans and records: impossible ones are refused, and JSON changes nothing."""

import json

import numpy as np
import pytest

from heal_tasks.core.errors import InputError
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


def test_there_are_four_different_plans():
    assert len(set(PLANS)) == len(PLANS) == 4


@pytest.mark.parametrize(
    "options", [{"prior": -1.0}, {"contrast_steps": 3}, {"prior": 1.0, "contrast_steps": -1},
                {"answer_count_exponent": 1.1}, {"prior": float("nan")}],
)  # fmt: skip
def test_impossible_plans_are_refused(options):
    with pytest.raises(InputError, match="impossible; prior and contrast_steps must be 0 or more"):
        Plan(**options)


@pytest.mark.parametrize(("variant", "theta"), [("N", -0.1), ("N", 1.6), ("M", 9.0), ("N", float("nan"))])
def test_theta_out_of_range_is_refused(variant, theta):
    with pytest.raises(InputError, match=rf"theta {theta} of NUDGE-{variant} is outside 0 to"):
        NudgeRecord(variant, theta, 0.0, None, 0, 0.0, by_people=False)
