"""What the command line says of itself: help, and errors as one line with the nearest names."""

import os
import re
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plm.errors import ConfigError

GROUPS = {
    "scale": "one size of everything: widths, tokens, rates; nano is for a laptop",
    "experiment": "a whole run, with a plus sign: +experiment=plm_pretrain",
    "stage": "what is done with the model",
    "model": "the network; its parts are the groups below it",
    "model/activation": "the function inside the feed-forward",
    "model/attention": "what mixes positions",
    "model/block": "how parts, norms and the residual stream are joined",
    "model/embedding": "tokens to vectors, and the head",
    "model/linear": "what makes every projection",
    "model/matmul": "the two products inside attention",
    "model/mlp": "the feed-forward",
    "model/norm": "the normalisation",
    "data": "which prepared recipe; data.path=book.txt takes your own text",
    "preference": "the loss on pairs: +experiment=plm_aries preference=dpo",
    "prompts": "the questions of a round, or of learning from rewards",
    "candidates": "how a round samples answers and refinements",
    "reward": "what scores them: reward=reward_model reward.model=<folder>",
    "pairing": "which of them become pairs",
    "refinement": "how a prompt shows an answer that is to be bettered",
    "round": "how much a round samples",
    "policy": "the loss of a rollout's token: +experiment=plm_rlvr policy=cispo",
    "advantage": "what a rollout is worth",
    "aggregation": "how the tokens of rollouts are weighed",
    "divergence": "from the weights that it began with: +divergence@stage.divergence=k3",
    "correction": "for the sampler's arithmetic: +correction@stage.correction=truncated",
    "environment": "how a prompt becomes a rollout: environment=interpreter",
    "rollouts": "how many are drawn, and for how many steps",
    "rlvr": "an algorithm's choices at once, behind the experiment: +rlvr=dapo",
    "phases": "token budgets, mixtures and segments of the rate",
    "schedule": "the rate's course; wsdc joins the phases' segments",
    "optimizer": "what makes a step of the gradients",
    "scaling": "what the batch does to the peak rate",
    "loss": "one more beside others: +loss@losses.z_loss=z_loss",
    "callbacks": "what watches a run: +callbacks@callbacks.average=average",
    "logger": "beside metrics.csv: +logger@loggers.wandb=wandb",
    "trainer": "processes and how they share the model: trainer=ddp trainer.devices=2",
    "sweep": "with -m: which settings are varied",
    "export": "for scripts/export.py, after a run: to=hf",
    "task": "for scripts/evaluate.py, tasks=[exercises], and for callbacks.evaluation",
}
"""What a choice of the group decides; a group that is not named here is listed after these."""

HELP = """Train a small language model: python train.py +experiment=plm_pretrain

{groups}

group=name takes another choice, key=value changes a setting: scale.peak_lr.pretrain=1e-3
--cfg job shows the composed settings; -m sweeps: scale.peak_lr.pretrain=1e-3,2e-3
The same command goes on with a run that was stopped; a finished run says where its report is."""


def help_text(configs: Path) -> str:
    """What --help shows. Hydra's own list of groups takes longer than all else of the start.

    Args:
        configs: folder of the configuration.
    """
    folders = {path.parent for path in configs.rglob("*.yaml")} - {configs}
    there = {path.relative_to(configs).as_posix(): path for path in folders}
    order = [name for name in GROUPS if name in there] + sorted(set(there) - set(GROUPS))
    lines = []
    for name in order:
        choices = ", ".join(sorted(path.stem for path in there[name].glob("*.yaml")))
        lines.append(f"{name:17} {GROUPS.get(name, '')}".rstrip())
        lines.append(f"{'':17}   {choices}")
    return HELP.format(groups="\n".join(lines))


def check_packages() -> None:
    """Raise ConfigError where this Python has not what everything here needs."""
    missing = [name for name in ("torch", "hydra", "lightning") if find_spec(name) is None]
    if missing:
        root = Path(__file__).resolve().parents[1]
        ready = root / ".venv" / "bin" / "activate"
        way = f"run `. {os.path.relpath(ready)}` first" if ready.is_file() else "see README.md"
        raise ConfigError(f"{sys.executable} has no {' and no '.join(missing)}; {way}")


def explain(error: BaseException, configs: Path, name: str = "train") -> str | None:
    """One line for an error of composition, or of a folder; None: it is neither.

    Args:
        error: what was raised.
        configs: folder of the configuration.
        name: of the root file there.
    """
    import yaml
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    known = (HydraException, OmegaConfBaseException, yaml.YAMLError)
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, known):
        seen = seen.__cause__
    if isinstance(error, PermissionError):
        return f"runs_dir: {error.filename} cannot be written: {error.strerror}"
    if isinstance(error, ValueError) and "Config group override must be a string" in str(error):
        # Hydra (1.3) names no group.
        empty = [w.split("=")[0] for w in sys.argv[1:] if w.lower().endswith(("=null", "=~", "="))]
        group = next((w for w in empty if (configs / w.split("@")[0]).is_dir()), "a group")
        return f"{group}=null: a group takes the name of a choice; ~{group} leaves it out"
    if seen is None:
        return None
    text = " ".join(str(error).split())
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing:
        return _choice(missing.group(1), configs)
    override = re.search(r"Could not override '([^']+)'", text)
    if override:
        # A mapping given as one value: the unknown key lies inside it.
        inside = re.search(r"full_key: (\S+)", f"{error} {error.__cause__}")
        key = inside.group(1) if inside else override.group(1)
        return _key(key, configs, name)
    given = getattr(seen, "override", None)
    if isinstance(given, str):
        return f"{given} on the command line cannot be read; the form is key=value"
    if isinstance(seen, yaml.YAMLError):
        return f"a configuration file is not YAML: {text}"
    return re.sub(r" full_key: .*| See https?://.*", "", text)


def _near(wanted: str, names: list[str]) -> str:
    near = get_close_matches(wanted, names, 3, 0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are: {', '.join(sorted(names)) or 'none'}"


def _choice(missing: str, configs: Path) -> str:
    group, _, choice = missing.rpartition("/")
    names = sorted(path.stem for path in (configs / group).glob("*.yaml"))
    if not group or not names:
        groups = [str(path.relative_to(configs)) for path in configs.rglob("*") if path.is_dir()]
        return f"{missing} is not a group of choices; {_near(group or choice, groups)}"
    return f"{group}={choice} is not a choice; {_near(choice, names)}"


def _key(key: str, configs: Path, name: str) -> str:
    """The unknown key's neighbours, from the configuration composed without it."""
    if "." not in key and (configs / key).is_dir():
        typed = next((w for w in sys.argv[1:] if w.startswith(f"{key}=")), f"{key}=…")
        return f"{key} is a group that nothing is chosen of yet: write +{typed}"
    from hydra import compose, initialize_config_dir
    from omegaconf import DictConfig, OmegaConf

    words = [w for w in sys.argv[1:] if "=" in w and not w.startswith(("-", "~"))]
    # Choices, and where those of a user's own lie.
    groups = [
        w
        for w in words
        if w.startswith("hydra.searchpath=") or ("." not in w.split("=")[0] and "," not in w)
    ]
    try:
        with initialize_config_dir(str(configs.resolve()), version_base="1.3"):
            node: Any = compose(name, overrides=[w for w in groups if key not in w])
    except Exception as error:
        return f"{key} is not a setting ({type(error).__name__} while looking for its neighbours)"
    parts, known = key.split("."), []
    for part in parts:
        if not isinstance(node, DictConfig) or part not in node:
            break
        known.append(part)
        node = OmegaConf.select(node, part, throw_on_missing=False)
    names = [str(k) for k in node] if isinstance(node, DictConfig) else []
    where = ".".join(known)
    wrong = parts[len(known)] if len(known) < len(parts) else parts[-1]
    return f"{key} is not a setting; in {where or 'the configuration'} {_near(wrong, names)}"
