"""lm-evaluation-harness: the same numbers through our class and through its own on the export."""

import builtins
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from plm.errors import ConfigError, DataError
from plm.evaluation.choices import CONFIGS
from plm.evaluation.common import Share
from plm.evaluation.lm_eval import LmEval, check_room, figures
from plm.evaluation.paired import compare
from plm.evaluation.stored import plain
from plm.evaluation.subject import Subject, subject_of
from plm.export.hf import hf
from plm.formats.chat import CHATML
from plm.formats.common import About
from plm.pretrained import load
from tests.evaluation.conftest import SIZES
from tests.model.common import tiny

WORDS = "some text of a town and a book that reads of rain".split()
# fp32 through two programs, of sums over some twenty tokens.
CLOSE = 2e-4

CHOICE = """
task: plm_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
GENERATE = """
task: plm_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/choice.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{choices[0]}}}}"
generation_kwargs: {{until: ["a town", "\\n\\n"], do_sample: false, max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
"""
ROLLING = """
task: plm_rolling
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/rolling.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tasks on data of this machine."""
    folder, draw = tmp_path_factory.mktemp("tasks"), __import__("random").Random(0)

    def text(most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))

    rows = [
        {"question": text(30), "choices": [text(6), text(2), text(9)], "label": draw.randrange(3)}
        for _ in range(23)
    ]
    for name, some in (("choice", rows), ("rolling", [{"text": text(300)} for _ in range(7)])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in some))
    for name, yaml in (("choice", CHOICE), ("generate", GENERATE), ("rolling", ROLLING)):
        (folder / f"plm_{name}.yaml").write_text(yaml.format(folder=folder))
    return folder


@pytest.fixture(scope="module", params=["plm", "llama"])
def exported(request, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    model = tiny(f"model={request.param}", *SIZES, dtype=torch.float32)
    about = About(chat_template=CHATML.read_text(encoding="utf-8"))
    return hf(model, tokenizer, tmp_path_factory.mktemp("hf") / "out", about=about)


# For what no architecture changes: listing all of lm-eval's tasks takes long.
ONE_MODEL = pytest.mark.parametrize("exported", ["plm"], indirect=True)


@pytest.fixture
def ours(exported: Path) -> Subject:
    return subject_of(load(exported), prompt="text", rows=5)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def theirs(exported: Path, task: str, local: Path, batch: int, **settings: Any) -> dict[str, Any]:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    model = HFLM(str(exported), batch_size=batch, device="cpu", dtype="float32",
                 trust_remote_code=True)  # fmt: skip
    seeds = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    return simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=TaskManager(include_path=str(local), include_defaults=False),
        bootstrap_iters=0,
        **dict.fromkeys(seeds, 1234),
        **settings,
    )


def run(task: LmEval, subject: Subject) -> Any:
    task.check(subject)
    return task.result(subject, [task.run(subject), task.run(subject, Share(1, 2))])


def same_responses(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [r["id"].split("/")[1] for r in ours] == [str(s["doc_id"]) for s in theirs]
    for record, sample in zip(ours, theirs, strict=True):
        found, wanted = record["answers"], sample["filtered_resps"]
        if isinstance(wanted[0], str):
            assert found == wanted
            continue
        flat = [pair if isinstance(pair, list | tuple) else [pair] for pair in found]
        for one, other in zip(flat, wanted, strict=True):
            other = other if isinstance(other, list | tuple) else [other]
            assert one[0] == pytest.approx(other[0], abs=CLOSE)
            assert list(one[1:]) == [bool(x) for x in other[1:]]


@pytest.mark.peers
@pytest.mark.parametrize("shots", [None, 2])
def test_multiple_choice(exported: Path, ours: Subject, local: Path, shots: int | None):
    task = LmEval("plm_choice", include_path=str(local), num_fewshot=shots)
    found = run(task, ours)
    told = theirs(exported, "plm_choice", local, 4, num_fewshot=shots)
    same_responses(found.records, told["samples"]["plm_choice"])
    for metric in ("acc", "acc_norm"):
        wanted = told["results"]["plm_choice"][f"{metric},none"]
        figure = found.figures[metric]
        assert figure.value == wanted and figure.n == 23 and 0 < figure.error < 0.2
        values = [r["values"][metric] for r in found.records]
        assert sum(values) / 23 == pytest.approx(wanted)
    assert found.settings["num_fewshot"] == {"plm_choice": shots or 0}
    assert compare("t", plain(found), plain(found))[0].p == 1.0


@pytest.mark.peers
def test_generation_stops_where_theirs_does(exported: Path, ours: Subject, local: Path):
    found = run(LmEval("plm_generate", include_path=str(local)), ours)
    told = theirs(exported, "plm_generate", local, 1)
    same_responses(found.records, told["samples"]["plm_generate"])
    assert len({r["answers"][0] for r in found.records}) > 5


@pytest.mark.peers
def test_rolling_texts_longer_than_the_context(exported: Path, ours: Subject, local: Path):
    found = run(LmEval("plm_rolling", include_path=str(local)), ours)
    told = theirs(exported, "plm_rolling", local, 3)["results"]["plm_rolling"]
    for metric in ("word_perplexity", "bits_per_byte"):
        assert found.figures[metric].value == pytest.approx(told[f"{metric},none"], rel=1e-5)
    rows = [json.loads(line)["text"] for line in (local / "rolling.jsonl").open()]
    assert max(len(ours.encode([row])[0]) for row in rows) > 2 * ours.max_len


@pytest.mark.peers
def test_chat_templates_render_alike(exported: Path, local: Path):
    subject = subject_of(load(exported), prompt="chat", rows=4)
    found = run(LmEval("plm_choice", include_path=str(local), num_fewshot=1), subject)
    told = theirs(exported, "plm_choice", local, 4, num_fewshot=1, apply_chat_template=True)
    same_responses(found.records, told["samples"]["plm_choice"])
    assert found.prompt == "chat"


@pytest.mark.peers
def test_limit_and_longest_answer(ours: Subject, local: Path):
    task = LmEval("plm_generate", include_path=str(local), limit=3, max_new_tokens=1)
    found = run(task, ours)
    assert len(found.records) == 3
    # A token of this tokenizer is a word at most.
    assert all(len(r["answers"][0]) <= len(" another") for r in found.records)


@pytest.mark.peers
def test_every_configured_task_is_there():
    import yaml
    from lm_eval.tasks import TaskManager

    there = set(TaskManager().all_tasks)
    nodes = [yaml.safe_load(path.read_text()) for path in sorted(CONFIGS.glob("*.yaml"))]
    names = [node["task"] for node in nodes if node.get("_target_", "").endswith("LmEval")]
    assert len(names) == 16 and set(names) <= there


@pytest.mark.peers
@ONE_MODEL
def test_what_cannot_be_had_is_one_line(ours: Subject, local: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"task=no_such_task: lm-eval .* has no such task"):
        LmEval("no_such_task").check(ours)
    with pytest.raises(DataError, match="piqa: lm-eval cannot load its data"):
        LmEval("piqa").check(ours)
    # Loaded anew for each run, so that a callback may evaluate again.
    task = LmEval("plm_choice", include_path=str(local), limit=4)
    assert run(task, ours).records == run(task, ours).records
    text = (local / "plm_generate.yaml").read_text().replace("plm_generate", "plm_unsafe")
    (tmp_path / "plm_unsafe.yaml").write_text(text + "unsafe_code: true\n")
    with pytest.raises(ConfigError, match=r"plm_unsafe runs programs.*unsafe_code=true"):
        LmEval("plm_unsafe", include_path=str(tmp_path)).check(ours)


def tasks_of(**kinds: tuple[str, dict[str, Any] | None]) -> dict[str, Any]:
    """Tasks as lm-eval has them, as far as their room is looked at."""
    return {
        name: SimpleNamespace(config=SimpleNamespace(output_type=kind, generation_kwargs=settings))
        for name, (kind, settings) in kinds.items()
    }


def test_answers_that_fill_the_context_are_refused_before_anything_runs():
    some = tasks_of(
        choice=("multiple_choice", None),
        short=("generate_until", {"max_gen_toks": 255}),
        long=("generate_until", {"until": ["x"], "max_gen_toks": 256}),
    )
    with pytest.raises(ConfigError, match=r"long: answers of up to 256 .* context of 256; set <ta"):
        check_room(some, None, 256)
    check_room(some, None, 257)
    check_room(some, 100, 256)
    with pytest.raises(ConfigError, match="short: answers of up to 300 tokens"):
        check_room(some, 300, 256)
    # A task that says nothing gets our own number.
    with pytest.raises(ConfigError, match="silent: answers of up to 256 tokens"):
        check_room(tasks_of(silent=("generate_until", None)), None, 200)


def test_each_group_has_its_own_number_of_items():
    results = {
        name: {"acc,none": 0.5, "acc_stderr,none": 0.1} for name in ("all", "stem", "a", "b", "c")
    }
    groups = {"all": ["stem", "c"], "stem": ["a", "b"]}
    found = figures("all", results, {"a": 3, "b": 4, "c": 5}, groups)
    told = {name: figure.n for name, figure in found.items()}
    assert told == {"acc": 12, "acc/stem": 7, "acc/a": 3, "acc/b": 4, "acc/c": 5}
    assert next(iter(found)) == "acc"


@pytest.mark.peers
@ONE_MODEL
def test_a_group_and_the_room_by_lm_eval_itself(ours: Subject, local: Path, tmp_path: Path):
    for name, changed in (("a", "plm_choice_a"), ("b", "plm_choice_b"), ("c", "plm_choice_c")):
        text = (local / "plm_choice.yaml").read_text().replace("plm_choice", changed)
        (tmp_path / f"{name}.yaml").write_text(text)
    mean = "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    inner = "group: plm_inner\ntask: [plm_choice_a, plm_choice_b]\n" + mean
    (tmp_path / "inner.yaml").write_text(inner)
    outer = "group: plm_outer\ntask: [plm_inner, plm_choice_c]\n" + mean
    (tmp_path / "outer.yaml").write_text(outer)
    found = run(LmEval("plm_outer", include_path=str(tmp_path), limit=4), ours).figures
    told = {name: figure.n for name, figure in found.items() if name.startswith("acc")}
    assert told["acc"] == 12 and told["acc/plm_inner"] == 8 and told["acc/plm_choice_c"] == 4
    text = (local / "plm_generate.yaml").read_text().replace("plm_generate", "plm_long")
    (tmp_path / "long.yaml").write_text(text.replace("max_gen_toks: 12", "max_gen_toks: 256"))
    with pytest.raises(ConfigError, match="plm_long: answers of up to 256 tokens"):
        LmEval("plm_long", include_path=str(tmp_path)).check(ours)
    LmEval("plm_long", include_path=str(tmp_path), max_new_tokens=9).check(ours)


def test_its_absence_is_named(subject: Subject, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "lm_eval":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match="needs lm-evaluation-harness: pip install lm-eval"):
        LmEval("piqa").check(subject)
    assert LmEval("piqa").run(subject, Share(1, 2)).records == []
