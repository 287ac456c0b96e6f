"""Public tasks through EleutherAI's lm-evaluation-harness, with our model as its LM class.

Source: EleutherAI/lm-evaluation-harness, an optional package: `pip install lm-eval`.
"""

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from plm.errors import ConfigError, DataError
from plm.evaluation.common import Part, Record, Result, Share, digest_of, notes_of, records_of
from plm.evaluation.kinds import check_kinds
from plm.evaluation.lm_eval_model import asked_of, language_model
from plm.evaluation.statistics import Z95, Figure

_SEED = 1234


class LmEval:
    """One task, or group of tasks, of lm-evaluation-harness.

    Args:
        task: its name there, or in include_path.
        num_fewshot: examples before the question; null: as the task says there, else none.
        limit: at most so many items of each (sub)task; null: all.
        include_path: a folder with task YAMLs of your own.
        max_new_tokens: longest answer, where the task is one of generation; null: as it says.
        unsafe_code: let lm-eval run programs that the model wrote, in this very process's account
            and outside our sandbox; tasks that need that refuse without it.
        seed: of the draws of examples, and of answers where the task draws them.
    Raises:
        ConfigError: a value of the wrong kind, or out of range.
    """

    def __init__(
        self,
        task: str,
        *,
        num_fewshot: int | None = None,
        limit: int | None = None,
        include_path: str | None = None,
        max_new_tokens: int | None = None,
        unsafe_code: bool = False,
        seed: int = _SEED,
    ) -> None:
        told = {"task": task, "num_fewshot": num_fewshot, "limit": limit, "seed": seed}
        told |= {"include_path": include_path, "max_new_tokens": max_new_tokens}
        check_kinds({**told, "unsafe_code": unsafe_code}, _KINDS)
        for name, least in (("num_fewshot", 0), ("limit", 1), ("max_new_tokens", 1), ("seed", 0)):
            if told[name] is not None and told[name] < least:
                raise ConfigError(f"{name}={told[name]} must be at least {least}")
        self.task, self.num_fewshot, self.limit = task, num_fewshot, limit
        self.include_path, self.max_new_tokens = include_path, max_new_tokens
        self.unsafe_code, self.seed = unsafe_code, seed
        self._loaded: Any = None

    def check(self, subject: Any) -> None:
        """Load lm-eval and the task's data, so that what is missing is said before anything runs.

        Raises:
            ConfigError: no lm-eval, no such task, one that runs programs without being allowed, or
                one whose answers may be as long as the model's context.
            DataError: its data cannot be had.
        """
        _harness()
        if self._loaded is None:
            self._loaded = self._load()
        check_room(self._loaded.tasks, self.max_new_tokens, subject.max_len)

    def run(self, subject: Any, share: Share = Share()) -> Part:  # noqa: B008
        """All items, on rank 0; the others have nothing to do."""
        if share.rank:
            return Part()
        self.check(subject)
        # Used once: its tasks keep what they were answered.
        manager, self._loaded = self._loaded, None
        if self.unsafe_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"
        generation = {"max_gen_toks": self.max_new_tokens} if self.max_new_tokens else None
        told = _harness().simple_evaluate(
            model=language_model(subject, self.seed),
            tasks=[self.task],
            num_fewshot=self.num_fewshot,
            limit=self.limit,
            task_manager=manager,
            apply_chat_template=subject.chat is not None,
            gen_kwargs=generation,
            random_seed=self.seed,
            numpy_random_seed=self.seed,
            torch_random_seed=self.seed,
            fewshot_random_seed=self.seed,
            confirm_run_unsafe_code=self.unsafe_code,
            bootstrap_iters=1000,
        )
        return Part(
            _records(told["samples"]),
            {
                "results": {name: _plain(row) for name, row in told["results"].items()},
                "n": {name: row["effective"] for name, row in told["n-samples"].items()},
                "groups": {name: list(some) for name, some in told["group_subtasks"].items()},
                "num_fewshot": dict(told.get("n-shot", {})),
                "versions": dict(told.get("versions", {})),
                "notes": [],
            },
        )

    def _load(self) -> Any:
        """What simple_evaluate takes as its task manager, with the task loaded."""
        manager = _manager(self.include_path, self.task)
        try:
            loaded = manager.load([self.task])
        # datasets, huggingface_hub and the network each raise kinds of their own.
        except (OSError, ConnectionError, ValueError, RuntimeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(f"{self.task}: lm-eval cannot load its data: {first}") from error
        unsafe = [n for n, t in loaded["tasks"].items() if getattr(t, "UNSAFE_CODE", False)]
        if unsafe and not self.unsafe_code:
            raise ConfigError(
                f"{unsafe[0]} runs programs that the model wrote, outside our sandbox; "
                "<task>.unsafe_code=true allows it (humaneval without lm-eval runs in the sandbox)"
            )
        return _Loaded(manager, loaded)

    def result(self, subject: Any, parts: list[Part]) -> Result:
        """lm-eval's own figures: `acc`, `acc_norm` …; of a group's tasks `acc/<task>`."""
        told = next(part.told for part in parts if part.told.get("results"))
        records = records_of(parts)
        return Result(
            figures=figures(self.task, told["results"], told["n"], told["groups"]),
            records=records,
            settings={
                "task": self.task,
                "num_fewshot": told["num_fewshot"],
                "max_new_tokens": self.max_new_tokens,
                "seed": self.seed,
                "lm_eval": _version(),
                "versions": told["versions"],
            },
            digest=digest_of([[r["id"], r["hash"]] for r in records]),
            prompt=subject.style,
            notes=notes_of(parts),
        )


_KINDS = {
    "task": str,
    "num_fewshot": (int, None),
    "limit": (int, None),
    "include_path": (str, None),
    "max_new_tokens": (int, None),
    "unsafe_code": bool,
    "seed": int,
}


def check_room(tasks: Mapping[str, Any], longest: int | None, context: int) -> None:
    """Refuse tasks whose answers alone may fill the model's context.

    Args:
        tasks: of lm-eval, by name.
        longest: what is asked for in the place of the tasks' own numbers; None: nothing.
        context: longest prompt and answer together.
    Raises:
        ConfigError: the task, its number and the context.
    """
    for name, task in tasks.items():
        if task.config.output_type != "generate_until":
            continue
        asked = asked_of(dict(task.config.generation_kwargs or {}))["max_new_tokens"]
        if (longest or asked) >= context:
            raise ConfigError(
                f"{name}: answers of up to {longest or asked} tokens leave no room for a prompt in "
                f"the model's context of {context}; set <task>.max_new_tokens below it"
            )


class _Loaded:
    """A task manager whose task is loaded already: simple_evaluate would do so again."""

    def __init__(self, manager: Any, loaded: Any) -> None:
        self._manager, self._loaded = manager, loaded

    @property
    def tasks(self) -> dict[str, Any]:
        """The tasks by name, those of groups and of groups in them."""
        return self._loaded["tasks"]

    def load(self, spec: Any) -> Any:
        """The loaded task, whatever is asked for."""
        return self._loaded

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)


def _manager(include_path: str | None, task: str) -> Any:
    """lm-eval's index of tasks, or of those in a folder alone where the task is among them.

    Raises:
        ConfigError: it has no such task.
    """
    for path, defaults in ((include_path, False), (include_path, True)):
        if path is None and not defaults:
            continue
        manager = _index(path, defaults)
        if task in manager.all_tasks:
            return manager
    raise ConfigError(f"task={task}: lm-eval {_version()} has no such task")


@lru_cache(maxsize=4)
def _index(include_path: str | None, defaults: bool) -> Any:
    # Reading lm-eval's own thousands of files takes some ten seconds.
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path, include_defaults=defaults)


def _harness() -> Any:
    try:
        import lm_eval
        import lm_eval.evaluator
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "lm_eval":
            raise ConfigError(
                f"lm-eval is installed, and what it needs is not: {error.name}; pip install lm-eval"
            ) from error
        raise ConfigError("this task needs lm-evaluation-harness: pip install lm-eval") from error
    return lm_eval.evaluator


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")


def _records(samples: dict[str, list[dict[str, Any]]]) -> list[Record]:
    """One a document and filter, with the values of its metrics that are numbers."""
    found: list[Record] = []
    for task, some in samples.items():
        for sample in some:
            several = sample["filter"] not in ("none", None)
            values = {
                name: float(sample[name])
                for name in sample["metrics"]
                if isinstance(sample[name], int | float | bool)
            }
            found.append(
                {
                    "index": len(found),
                    "id": f"{task}/{sample['doc_id']}" + f"@{sample['filter']}" * several,
                    "group": task,
                    "values": {_named(n, sample["filter"]): v for n, v in values.items()},
                    "answers": [_short(resp) for resp in sample["filtered_resps"]],
                    "hash": sample["doc_hash"] + sample["target_hash"],
                }
            )
    return found


def _short(response: Any) -> Any:
    return response[:1000] if isinstance(response, str) else _bare(response)


def _bare(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_bare(inner) for inner in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _named(metric: str, filtering: str | None) -> str:
    return metric if filtering in ("none", None, "") else f"{metric}@{filtering}"


def _plain(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of one row of lm-eval's results."""
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def figures(
    task: str,
    results: dict[str, dict[str, float]],
    counts: dict[str, int],
    groups: dict[str, list[str]],
) -> dict[str, Figure]:
    """lm-eval's figures with the number of items that each rests on.

    Args:
        task: whose own figures have no task in their name, and stand first.
        results: of tasks and groups, `{"acc,none": …, "acc_stderr,none": …}`.
        counts: items of each task.
        groups: the tasks and groups of each group.
    """
    found: dict[str, Figure] = {}
    for name in sorted(results, key=lambda n: n != task):
        for key, value in results[name].items():
            metric, _, filtering = key.partition(",")
            if metric.endswith("_stderr") or metric == "sample_len":
                continue
            error = results[name].get(f"{metric}_stderr,{filtering}", float("nan"))
            label = _named(metric, filtering) + ("" if name == task else f"/{name}")
            low, high = value - Z95 * error, value + Z95 * error
            n = _items_of(name, counts, groups)
            found[label] = Figure(value, error, low, high, n, "reported")
    return found


def _items_of(name: str, counts: dict[str, int], groups: dict[str, list[str]]) -> int:
    if name in counts:
        return counts[name]
    return sum(_items_of(one, counts, groups) for one in groups.get(name, []))
