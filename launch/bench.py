"""Measures what a user waits for: python launch/bench.py --config configs/bench.py[:smollm2] --config.what=sft

With --config.peer=true it measures torch and transformers on the same work too. what: sft, generate, ppo, data, hf.
"""

from typing import Any

from tljax.core.command import main


def bench(config: Any) -> None:
    # Imported here, so that Ctrl-C in the seconds that the imports take ends in one line too.
    from tljax.bench.run import run

    run(config)


if __name__ == "__main__":
    main(bench, about=__doc__ or "", required_fields=("what", "sft", "ppo", "generate"))
