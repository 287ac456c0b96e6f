"""What is logged of a sampling."""

from collections.abc import Sequence

import torch

from plm.rlvr.rollouts import Drawn, Rollout


def of_drawn(drawn: Drawn) -> dict[str, tuple[float, float]]:
    """Sums and counts by name; a group's figures are over all groups that were drawn."""
    rollouts, told = drawn.rollouts, drawn.told
    found: dict[str, list[float]] = {}

    def add(name: str, values: Sequence[float]) -> None:
        found[name] = [sum(values), len(values)]

    add("reward", [one.reward for one in rollouts])
    for name in sorted({f"{one.source}.{kind}" for one in rollouts for kind in one.rewards}):
        source, kind = name.split(".", 1)
        add(f"reward/{name}", [o.rewards[kind] for o in rollouts if o.source == source])
    add("length", [len(one.tokens) for one in rollouts])
    ended = [len(one.tokens) for one in rollouts if not one.cut]
    # Of nothing there is no mean.
    if ended:
        add("length_ended", ended)
    add("cut", [float(one.cut) for one in rollouts])
    add("advantage", [abs(one.advantage) for one in rollouts])
    for name in sorted({name for one in rollouts for name in one.told}):
        add(name, [one.told.get(name, 0.0) for one in rollouts])
    if any(one.values for one in rollouts):
        found["value_explained"] = explained(rollouts)
    groups = told.get("groups", 0)
    solved = told.get("solved_all", 0), told.get("solved_none", 0)
    shares = {
        "groups_same": told.get("same", 0),
        "solved_all": solved[0],
        "solved_none": solved[1],
        "solved_some": groups - sum(solved),
        "unfilled": told.get("unfilled", 0),
    }
    return {n: (s, c) for n, (s, c) in found.items()} | {n: (v, groups) for n, v in shares.items()}


def explained(rollouts: Sequence[Rollout]) -> list[float]:
    """Sum and count of one figure: the share of the returns' variance that the values explain.

    1 − Var(R − v) / Var(R) over all chosen tokens, where there is variance.
    """
    pairs = [
        (value, earned)
        for one in rollouts
        for value, earned, learn in zip(one.values, one.returns, one.learn, strict=True)
        if learn
    ]
    values, returns = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).unbind(1)
    spread = float(returns.var(correction=0)) if pairs else 0.0
    if not spread > 0:
        return [0.0, 0]
    return [1 - float((returns - values).var(correction=0)) / spread, 1]


def looked_at(drawn: Drawn) -> dict[str, float]:
    """What the alarms look at; the entropy is an estimate, of the tokens that were chosen.

    Answers that are not compared with others of their group teach where its rewards are equal, too.
    """
    rewards = [one.reward for one in drawn.rollouts]
    chosen = sum(one.chosen for one in drawn.rollouts)
    compared = drawn.group > 1 and not any(one.values for one in drawn.rollouts)
    return {
        "entropy": -sum(sum(one.sampled) for one in drawn.rollouts) / max(chosen, 1),
        "cut": sum(one.cut for one in drawn.rollouts) / len(drawn.rollouts),
        "same": drawn.told["same"] / max(drawn.told["groups"], 1) if compared else 0.0,
        "low": min(rewards),
        "high": max(rewards),
    }


def shown(drawn: Drawn, decode: object, number: int) -> list[dict[str, object]]:
    """A few answers with their rewards, the best and the worst of each of `number` groups."""
    groups: dict[int, list[Rollout]] = {}
    for one in drawn.rollouts:
        groups.setdefault(one.number, []).append(one)
    found: list[dict[str, object]] = []
    for group in list(groups.values())[:number]:
        ranked = sorted(group, key=lambda one: (-one.reward, one.sample))
        for one in dict.fromkeys((0, len(ranked) - 1)):
            rollout = ranked[one]
            rewards = ", ".join(f"{kind} {value:g}" for kind, value in rollout.rewards.items())
            found.append(
                {
                    "source": rollout.source,
                    "prompt": decode(rollout.prompt),  # type: ignore[operator]
                    "text": rollout.text,
                    "settings": f"reward {rollout.reward:g} ({rewards})"
                    + (", cut" if rollout.cut else ""),
                }
            )
    return found
