"""The bench's stopping rule equals the training's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState

from bench.interruption import kept
from heal_tasks.training.validation import BaseAwareStopping

# Sixteenths are exact in binary, so ties happen and are ties.
value = st.integers(0, 16).map(lambda number: number / 16)


@given(value, st.lists(value, min_size=1, max_size=20), st.sampled_from([0.0, 0.0625, 0.25]), st.integers(1, 4))
def test_the_rule_ends_where_training_does(base, values, min_drop, patience):
    stopping, state = BaseAwareStopping(patience, base_score=base, min_drop=min_drop), TrainerState()
    end = len(values)
    for number, ndcg in enumerate(values, start=1):
        stopping.check_metric_value(None, state, TrainerControl(), ndcg)
        state.best_metric = max(ndcg, state.best_metric or 0.0)
        if stopping.early_stopping_patience_counter == patience:
            end = number
            break
    best, last = kept([base, *values], min_drop, patience)
    assert last == end
    assert [base, *values][best] == pytest.approx(max([base, *values[:end]]))
