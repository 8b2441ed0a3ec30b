"""Runs launch/plan.py as a user does."""

import pytest


@pytest.fixture
def plan(launch, repo, capsys):
    """plan("sft.py:7b", flag, ...) runs launch/plan.py -> its exit code, stdout and stderr."""

    def run(config, *flags):
        capsys.readouterr()
        code = launch("plan", f"--config={repo / 'configs' / config}", *flags)
        out = capsys.readouterr()
        return code, out.out, out.err.strip()

    return run
