"""Route table: which facts lead where, and what the reason says."""

import dataclasses

import pytest

from heal_tasks.nudge.route import RouteFacts, choose_route, skip_training

QUIET = RouteFacts(
    documents=1500, new=0, changed=0, deleted=0, changed_share=0.0, active_generation=7, has_topics=True,
    generation_age_days=3.0, misfits=None, pending=0, forced="auto",
)  # fmt: skip


def route(**changes):
    return choose_route(dataclasses.replace(QUIET, **changes), max_changed_share=0.1, max_age_days=30.0)


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        ({}, "nothing", "No document is new, changed or deleted, and generation 7 has every vector."),
        ({"new": 20, "changed": 1, "deleted": 1, "changed_share": 0.015}, "nudge", "20 new, 1 changed and 1 deleted"),
        ({"deleted": 1, "changed_share": 1 / 1500}, "nudge", "1 deleted of 1500 documents"),
        ({"pending": 4}, "nudge", "4 chunks to publish or to remove"),
        ({"asked": 3}, "nudge", "0 chunks to publish or to remove, 3 chunks with new questions"),
        ({"new_stems": 5}, "nudge", "0 chunks to publish or to remove, 5 word stems that the lexicon lacks"),
        ({"new": 150, "changed_share": 0.1}, "nudge", "10.0% changed since the last realignment is within 10.0%"),
        ({"new": 5, "changed_share": 0.101}, "realign", "10.1% of the documents changed since the last realignment"),
        ({"generation_age_days": 29.9}, "nothing", "generation 7"),
        ({"generation_age_days": 30.0}, "realign", "Generation 7 is 30.0 days old and due after 30."),
        ({"documents": 161, "new": 1, "misfits": 1}, "nudge", "1 new"),
        ({"documents": 161, "new": 7, "misfits": 7}, "nudge", "7 new"),
        ({"documents": 161, "new": 8, "misfits": 8}, "realign", "8 documents that are new since the last realignment"),
        ({"new": 29, "misfits": 29}, "nudge", "29 new"),
        ({"new": 30, "misfits": 30}, "realign", "fit no topic of generation 7; from 30 on they may be a new topic."),
        ({"displacement": 0.1}, "nothing", "generation 7"),
        ({"displacement": 0.12}, "realign", "have moved by 0.120 radians on average"),
        ({"probe_change": -0.03, "probe_change_high": 0.001}, "nothing", "generation 7"),
        ({"probe_change": -0.009, "probe_change_high": -0.002}, "nothing", "generation 7"),
        ({"probe_change": -0.03, "probe_change_high": -0.01}, "realign", "changed by -0.0300 nDCG@10"),
        ({"active_generation": None, "generation_age_days": None}, "realign", "No generation is live yet and 1500"),
        ({"documents": 0, "active_generation": None}, "nothing", "no documents in the store"),
        ({"documents": 0, "forced": "realign"}, "nothing", "no documents in the store"),
        ({"forced": "realign"}, "realign", "realign was forced by setting; 0 new"),
        ({"forced": "nudge", "changed_share": 0.9}, "nudge", "nudge was forced by setting"),
        ({"forced": "nothing", "new": 9}, "nothing", "nothing was forced by setting; 9 new"),
        ({"forced": "nothing", "active_generation": None}, "nothing", "nothing was forced by setting"),
        ({"forced": "nudge", "active_generation": None}, "realign", "no generation with topics is live that"),
        ({"model": "b", "aligned_model": "a"}, "realign", "HEAL_MODEL was a at the last realignment and is b"),
        ({"model": "b", "aligned_model": "b"}, "nothing", "generation 7"),
        ({"model": "b"}, "nothing", "generation 7"),
        ({"has_topics": False}, "realign", "Generation 7 has the base model's vectors and no topics yet."),
        ({"forced": "nudge", "has_topics": False}, "realign", "no generation with topics is live that"),
    ],
)  # fmt: skip
def test_route_table(changes, name, reason):
    found = route(**changes)
    assert found.name == name
    assert reason in found.reason
    assert found.reason.endswith(".")
    assert "\n" not in found.reason


@pytest.mark.parametrize(
    ("changes", "skips"),
    [
        ({}, False),
        ({"refused_trainings": 2, "new_material": 0.0}, False),
        ({"refused_trainings": 3, "new_material": 0.099}, True),
        ({"refused_trainings": 3, "new_material": 0.1}, False),
        ({"refused_trainings": 9, "new_material": 0.0, "forced": "realign"}, False),
    ],
)
def test_training_is_skipped_where_it_did_not_help_and_little_is_new(changes: dict, skips: bool) -> None:
    reason = skip_training(dataclasses.replace(QUIET, **changes))
    assert bool(reason) is skips
    if skips:
        assert "the last 3 trained models were not promoted" in reason
        assert "9.9% of documents or questions are new" in reason


@pytest.mark.parametrize(
    ("cause", "first", "more", "limit"),
    [
        ("share", {"changed_share": 0.12}, {"changed_share": 0.21}, "20.0% of the documents have changed"),
        ("topics", {"misfits": 31}, {"misfits": 60}, "60 documents fit no topic"),
        ("angle", {"displacement": 0.11}, {"displacement": 0.21}, "the rows have moved by 0.200 radians"),
        (
            "loss", {"probe_change": -0.011, "probe_change_high": -0.005},
            {"probe_change": -0.021, "probe_change_high": -0.005}, "the change is -0.0200",
        ),
    ],
)  # fmt: skip
def test_a_realignment_that_changed_nothing_is_not_repeated_for_the_same_cause(cause, first, more, limit):
    assert (route(**first).name, route(**first).cause) == ("realign", cause)
    other = "angle" if cause == "share" else "share"
    assert route(**first, fruitless_cause=other).name == "realign"
    waiting = route(**first, fruitless_cause=cause)
    assert waiting.name == "nothing"
    assert route(**first).reason in waiting.reason
    assert f"the next one is due when {limit}, or at an age of 30 days." in waiting.reason
    nudged = route(**first, fruitless_cause=cause, new=3)
    assert nudged.name == "nudge"
    assert "is within" not in nudged.reason
    assert f"due when {limit}" in nudged.reason
    assert route(**more, fruitless_cause=cause).name == "realign"
    assert route(**first, fruitless_cause=cause, generation_age_days=30.0).cause == "age"


def test_a_second_cause_is_not_hidden_by_one_that_waits():
    both = route(misfits=31, displacement=0.11, fruitless_cause="topics")
    assert (both.name, both.cause) == ("realign", "angle")
