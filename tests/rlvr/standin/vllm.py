"""A stand-in for vLLM that samples by transformers: its calls, and weights that are loaded anew.

What a run gives vLLM and takes from it is tried on it; vLLM itself is not.
"""

import os
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def TokensPrompt(prompt_token_ids: list[int]) -> list[int]:
    return prompt_token_ids


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    def __init__(self, model: str, *, trust_remote_code: bool, logprobs_mode: str, **settings: Any):
        assert logprobs_mode == "processed_logprobs"
        known = {"dtype", "max_num_seqs", "gpu_memory_utilization"}
        if settings.keys() - known:
            raise TypeError(f"unexpected keyword argument {sorted(settings.keys() - known)[0]!r}")
        self.model = AutoModelForCausalLM.from_pretrained(
            model, trust_remote_code=trust_remote_code, dtype=getattr(torch, settings["dtype"])
        ).eval()
        # Without what was loaded anew there is nothing to sample with.
        for parameter in self.model.parameters():
            torch.nn.init.zeros_(parameter)
        self.cached = True

    def apply_model(self, function: Any) -> list[Any]:
        return [function(SimpleNamespace(load_weights=self._load))]

    def _load(self, pairs: list[tuple[str, torch.Tensor]]) -> None:
        missing, unexpected = self.model.load_state_dict(dict(pairs), strict=False)
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        assert set(missing) <= tied and not unexpected
        self.cached = False

    def reset_prefix_cache(self) -> None:
        self.cached = None

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], params: list[Any], *, use_tqdm: bool) -> list[Any]:
        assert self.cached is None, "sampled before weights were loaded, or from an old cache"
        return [
            SimpleNamespace(outputs=[self._one(ids, one, index) for index in range(one.n)])
            for ids, one in zip(prompts, params, strict=True)
        ]

    def _one(self, prompt: list[int], given: Any, index: int) -> Any:
        draw = torch.Generator().manual_seed(given.seed % 2**40 + index)
        tokens: list[int] = []
        logprobs: list[dict[int, Any]] = []
        while len(tokens) < given.max_tokens:
            logits = self.model(torch.tensor([[*prompt, *tokens]])).logits[0, -1]
            logps = (logits / given.temperature).log_softmax(-1)
            token = int(torch.multinomial(logps.exp(), 1, generator=draw))
            tokens.append(token)
            logprobs.append({token: SimpleNamespace(logprob=float(logps[token]))})
            if token in given.stop_token_ids:
                break
        ended = tokens[-1] in given.stop_token_ids
        return SimpleNamespace(
            index=index,
            token_ids=tokens,
            logprobs=logprobs,
            text=" ".join(map(str, tokens)),
            finish_reason="stop" if ended else "length",
            stop_reason=tokens[-1] if ended else None,
        )
