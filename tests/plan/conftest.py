"""Plans as a user makes them."""

import pytest


@pytest.fixture
def plan(launch, repo, capsys):
    """Runs launch/plan.py: exit code, what it printed, what it said went wrong."""

    def run(config, *flags):
        capsys.readouterr()
        code = launch("plan", f"--config={repo / 'configs' / config}", *flags)
        out = capsys.readouterr()
        return code, out.out, out.err.strip()

    return run
