"""Against a stand-in that records its calls: vLLM itself is not tried here."""

import math
import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from plm.errors import ConfigError
from plm.rollout.sampling import Sampling, row_seed
from plm.rollout.vllm import VLLMEngine


class Model:
    def __init__(self, **settings) -> None:
        self.settings, self.calls = settings, []

    def generate(self, prompts, params, *, use_tqdm: bool):
        self.calls.append((prompts, params))
        return [self.result(param) for param in params]

    def result(self, param):
        def output(index: int):
            tokens = [5, 6 + index]
            return SimpleNamespace(
                index=index, token_ids=tokens, text=f"text {index}",
                logprobs=[{t: SimpleNamespace(logprob=-0.5 * t)} for t in tokens],
                finish_reason="stop" if index < 2 else "length",
                stop_reason=(7, "end", None)[min(index, 2)],
            )  # fmt: skip

        # In no order.
        return SimpleNamespace(outputs=[output(i) for i in reversed(range(param.n))])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = Model, SimpleNamespace
    module.TokensPrompt = lambda prompt_token_ids: {"prompt_token_ids": prompt_token_ids}
    monkeypatch.setitem(sys.modules, "vllm", module)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_calls_and_completions(folder):
    engine = VLLMEngine(folder, stop_ids=[7], dtype="float32")
    assert engine.llm.settings == {
        "model": str(folder), "trust_remote_code": True, "dtype": "float32"
    }  # fmt: skip
    sampling = Sampling(9, temperature=0.7, top_p=0.9, stop=("end",), seed=3)
    found = engine.generate([[1, 2], [3]], sampling, group=3)
    prompts, params = engine.llm.calls[0]
    assert prompts == [{"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [3]}]
    assert [param.seed for param in params] == [3, row_seed(3, 1) % 2**63]
    sent = {k: v for k, v in vars(params[0]).items() if k != "seed"}
    assert sent == {
        "n": 3, "max_tokens": 9, "temperature": 0.7, "top_k": 0, "top_p": 0.9, "min_p": 0.0,
        "repetition_penalty": 1.0, "stop": ["end"], "stop_token_ids": [7], "ignore_eos": True,
        "logprobs": 0, "skip_special_tokens": True,
    }  # fmt: skip
    assert [(one.prompt, one.sample) for one in found] == [(p, s) for p in (0, 1) for s in range(3)]
    assert [one.finish for one in found[:3]] == ["stop", "stop_string", "length"]
    assert found[1].tokens == [5, 7] and found[1].logps == [-2.5, -3.5]
    assert found[1].text == "text 1" and all(map(math.isnan, found[1].sampled_logps))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [(Sampling(2), [0.0, 0.0]), (Sampling(2, temperature=1.0), [-2.5, -3.0])],
)
def test_what_was_drawn_from_where_it_is_known(folder, sampling: Sampling, expected: list[float]):
    assert VLLMEngine(folder).generate([[1]], sampling)[0].sampled_logps == expected


def test_processed_log_probabilities_are_those_that_were_drawn_from(folder):
    engine = VLLMEngine(folder, logprobs_mode="processed_logprobs")
    (found,) = engine.generate([[1]], Sampling(2, temperature=0.7))
    assert found.sampled_logps == [-2.5, -3.0] and all(map(math.isnan, found.logps))
    (found,) = engine.generate([[1]], Sampling(2, temperature=1.0))
    assert found.sampled_logps == found.logps == [-2.5, -3.0]
    (found,) = engine.generate([[1]], Sampling(2, temperature=0))
    assert found.sampled_logps == [0.0, 0.0]


def test_weights_are_put_in_place_and_what_was_cached_is_forgotten(folder, monkeypatch):
    monkeypatch.delenv("VLLM_ENABLE_V1_MULTIPROCESSING", raising=False)
    engine, seen = VLLMEngine(folder, in_process=True), []
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    model = SimpleNamespace(load_weights=lambda pairs: seen.append(dict(pairs)))
    engine.llm.apply_model = lambda function: [function(model)]
    engine.llm.reset_prefix_cache = lambda: seen.append("forgotten")
    weight = torch.ones(2, requires_grad=True)
    engine.load(iter([("lm_head.weight", weight)]))
    assert seen[1] == "forgotten" and not seen[0]["lm_head.weight"].requires_grad
    # Not copied here.
    assert seen[0]["lm_head.weight"].data_ptr() == weight.data_ptr()


def test_what_is_refused(folder, tmp_path, monkeypatch):
    engine = VLLMEngine(folder)
    for call, message in (
        (lambda: engine.generate([[]], Sampling(2)), "prompt 0 is empty"),
        (lambda: engine.generate([[1]], Sampling(2), group=0), "group=0"),
        (lambda: engine.generate([[1]], Sampling(2), seeds=[]), "0 seeds for 1 prompts"),
        (lambda: VLLMEngine(tmp_path / "none"), "is no Hugging Face folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"vllm cannot be imported .*; pip install vllm"):
        VLLMEngine(folder)
