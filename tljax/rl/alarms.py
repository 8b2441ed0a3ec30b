"""Signs that a run goes wrong, each with the fields to look at."""

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

RECENT = 10  # the number of updates whose mean is judged: one rollout varies too much

MAX_KL = 0.5  # nats per token; runs that gained stayed below 0.1
MIN_ENTROPY = 0.2  # a share of the entropy of the first updates
MIN_EXPLAINED_VARIANCE = -0.05  # a new critic explains nothing: 640 replies may give some hundredths below 0 by chance
MAX_EQUAL_GROUPS = 0.9  # a share of the groups
MIN_ENDED = 0.8  # a share of the replies
MAX_SAMPLER_GAP = 0.1  # nats, of the 99th percentile of the tokens; in float32 it stays below 1e-4


class Alarms:
    """Watches the metrics of a run's updates. critic_warmup: the first updates, whose values are not judged."""

    def __init__(self, critic_warmup: int) -> None:
        self._warmup = critic_warmup
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=RECENT)
        self._first_entropy: float | None = None
        self._said: set[str] = set()

    def notes(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """Returns a line for each sign that update `step` (from 1) shows for the first time in this run."""
        self._recent.append(metrics)
        if len(self._recent) < RECENT:
            return []
        mean = {name: float(np.mean([one[name] for one in self._recent if name in one])) for name in metrics}
        if self._first_entropy is None:
            self._first_entropy = mean["entropy"]
        found = self._judge(step, mean)
        new = {name: line for name, line in found.items() if name not in self._said}
        self._said |= set(new)
        return [f"note: mean of the last {RECENT} updates: {line}" for line in new.values()]

    def _judge(self, step: int, mean: Mapping[str, float]) -> dict[str, str]:
        """Returns a line for each sign in the means of recent metrics, by the metric's name."""
        found = {}
        if mean["kl"] > MAX_KL:
            found["kl"] = (
                f"kl is {mean['kl']:.2f} nats per token, so the policy runs away from its reference; lower "
                "config.optim.lr or raise config.kl.coef"
            )
        if self._first_entropy and mean["entropy"] < MIN_ENTROPY * self._first_entropy:
            found["entropy"] = (
                f"entropy fell from {self._first_entropy:.3f} to {mean['entropy']:.3f} nats, so replies hardly differ; "
                "lower config.optim.lr, or raise config.rollout.temperature or config.ppo.entropy_coef"
            )
        judged = "explained_variance" in mean and step >= self._warmup + RECENT
        if judged and mean["explained_variance"] < MIN_EXPLAINED_VARIANCE:
            found["explained_variance"] = (
                f"explained_variance is {mean['explained_variance']:.2f}, so the critic's values are worse than none; "
                "raise config.critic.warmup or config.critic.epochs, or change config.critic.lr"
            )
        if mean.get("equal_groups", 0.0) > MAX_EQUAL_GROUPS:
            found["equal_groups"] = (
                f"in {100 * mean['equal_groups']:.0f} % of the groups all rewards are equal, which teach nothing; "
                "raise config.rollout.temperature or config.rollout.group, or train on other prompts"
            )
        if mean.get("sampler_gap_p99", 0.0) > MAX_SAMPLER_GAP:
            found["sampler_gap_p99"] = (
                f"sampler_gap_p99 is {mean['sampler_gap_p99']:.2f} nats, so replies are sampled under another "
                "distribution than they are scored under; set config.model.compute_dtype=float32, or "
                "config.ppo.importance_cap=2"
            )
        if mean["ended"] < MIN_ENDED:
            found["ended"] = (
                f"{100 * (1 - mean['ended']):.0f} % of the replies are cut off; raise config.rollout.max_new_tokens, "
                "or set config.reward.no_end below 0"
            )
        return found
