"""Choices that are allowed and teach little are named at the start, and the shipped configs make none of them."""

import runpy

import pytest

from tljax.rl.check import start_notes


@pytest.fixture
def config_of(repo):
    get_config = runpy.run_path(str(repo / "configs" / "ppo.py"))["get_config"]

    def changed(options, **fields):
        config = get_config(options)
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config

    return changed


@pytest.mark.parametrize("options", ["tiny", "tiny,rloo", "smollm2", "smollm2,rloo", "tiny,lora"])
def test_the_shipped_configs_give_no_warning(config_of, options):
    assert start_notes(config_of(options)) == []


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"critic__warmup": 0}, "config.critic.warmup is 0"),
        ({"critic__lr": 1e-6}, "config.critic.lr is 1e-06, below optim.lr"),
        ({"rollout__temperature": 0.0}, "config.rollout.temperature is 0"),
        ({"ppo__loss_mean": "constant"}, "ppo.loss_mean is constant"),
        ({"algorithm": "dr_grpo", "rollout__group": 4, "critic__warmup": 0}, "config.algorithm is dr_grpo"),
    ],
)
def test_a_choice_that_teaches_little_is_named(config_of, fields, field):
    notes = start_notes(config_of("tiny", **fields))
    assert len(notes) == 1 and notes[0].startswith("note: ") and field in notes[0]


def test_the_released_run_is_named_as_it_is(config_of):
    notes = " ".join(start_notes(config_of("7b,release")))
    assert "critic.warmup" in notes and "critic.lr is 1e-07" in notes and "temperature" in notes
