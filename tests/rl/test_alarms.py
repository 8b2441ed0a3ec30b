"""Signs that a run goes wrong: said once, with the field to look at, and not in a run that goes well."""

import pytest

from tljax.rl.alarms import RECENT, Alarms

WELL = {
    "kl": 0.02,
    "entropy": 0.3,
    "explained_variance": 0.3,
    "equal_groups": 0.4,
    "ended": 1.0,
    "sampler_gap_p99": 0.01,
}
WARMUP = 5


def notes_of(updates):
    alarms = Alarms(critic_warmup=WARMUP)
    return [note for step, metrics in enumerate(updates, 1) for note in alarms.notes(step, metrics)]


def test_a_run_that_goes_well_says_nothing():
    grpo = {name: value for name, value in WELL.items() if name != "explained_variance"}
    ppo = {name: value for name, value in WELL.items() if name != "equal_groups"}
    for metrics in (WELL, grpo, ppo):
        assert notes_of([metrics] * 40) == []


@pytest.mark.parametrize(
    "name, value, field",
    [
        ("kl", 2.0, "config.kl.coef"),
        ("entropy", 0.01, "config.rollout.temperature"),
        ("explained_variance", -0.4, "config.critic.epochs"),
        ("equal_groups", 0.97, "config.rollout.group"),
        ("sampler_gap_p99", 0.4, "config.ppo.importance_cap"),
        ("ended", 0.3, "config.rollout.max_new_tokens"),
    ],
)
def test_a_sign_is_said_once_with_its_field(name, value, field):
    notes = notes_of([WELL] * 20 + [WELL | {name: value}] * 40)
    assert len(notes) == 1 and name.split("_")[0] in notes[0].replace("cut off", "ended") and field in notes[0]
    assert notes[0].startswith(f"note: mean of the last {RECENT} updates: ")


def test_one_bad_rollout_and_a_critic_in_its_warm_up_are_no_sign():
    bad = WELL | {"explained_variance": -0.8, "ended": 0.0}
    assert notes_of([WELL] * 20 + [bad] + [WELL] * 20) == []
    assert notes_of([WELL | {"explained_variance": -0.02}] * 40) == []
    untrained = WELL | {"explained_variance": -0.2}
    assert notes_of([untrained] * (WARMUP + RECENT - 1)) == []
    assert len(notes_of([untrained] * (WARMUP + RECENT))) == 1
