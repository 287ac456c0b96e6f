"""The engine's `generate` by vLLM, from an exported Hugging Face folder; an optional extra.

It has been run against a stand-in for vLLM only, never against vLLM itself: the calls are those of
its documented offline interface (LLM, SamplingParams, TokensPrompt). vLLM has classes of its own
for llama, qwen2 and qwen3, which exports of those choices are. PLM is not among them: its export
brings modelling code for transformers, which vLLM can only take through its transformers backend
(`model_impl="transformers"`). Of what that asks for, the code has attention by transformers
interface; whether it takes heads whose values are smaller than their keys has not been tried.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plm.errors import ConfigError
from plm.rollout.completion import LENGTH, STOP, STOP_STRING, Completion
from plm.rollout.sampling import Sampling, row_seed


def imported(in_process: bool = False) -> Any:
    """The module `vllm`.

    Args:
        in_process: vLLM keeps its engine in this process.
    Raises:
        ConfigError: it cannot be imported.
    """
    if in_process:
        # Read when vllm is imported; a process of its own would take weights from files alone.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"vllm cannot be imported ({error}); pip install vllm, or use plm.rollout.engine"
        ) from error
    return vllm


class VLLMEngine:
    """Batched sampling by vLLM.

    Draws depend on a row's seed, but by vLLM's generator: texts differ from those of `Engine`.

    Args:
        folder: as `plm.export.hf` writes it.
        stop_ids: tokens that end a row.
        in_process: keep vLLM's engine in this process, which `load` needs.
        settings: of `vllm.LLM`, for example dtype or gpu_memory_utilization.
    Raises:
        ConfigError: vLLM is not installed or refuses the model, or there is no such folder.
    """

    # As `Engine` has it; rows that a tool interrupts are begun anew, from what vLLM has cached.
    rows = 1

    def __init__(
        self,
        folder: Path | str,
        *,
        stop_ids: Sequence[int] = (),
        in_process: bool = False,
        **settings: Any,
    ):
        vllm = imported(in_process)
        if not (Path(folder) / "config.json").is_file():
            raise ConfigError(
                f"{folder} is no Hugging Face folder; scripts/export.py to=hf writes one"
            )
        self.vllm, self.stop_ids = vllm, tuple(stop_ids)
        # Then its log-probabilities are those of the distribution that was drawn from.
        self.processed = settings.get("logprobs_mode") == "processed_logprobs"
        try:
            self.llm = vllm.LLM(model=str(folder), **{"trust_remote_code": True, **settings})
        except (TypeError, ValueError, RuntimeError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ConfigError(f"vllm refuses {folder}, or a setting: {first}") from error

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Put weights in the place of its own, and forget what it has cached of the old ones.

        Args:
            weights: under Hugging Face's names.
        """
        pairs = [(name, value.detach()) for name, value in weights]

        def put(model: Any) -> None:
            model.load_weights(pairs)

        self.llm.apply_model(put)
        self.llm.reset_prefix_cache()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        *,
        group: int = 1,
        seeds: Sequence[int] | None = None,
        hold: int = 0,
        held: Sequence[Any] | None = None,
    ) -> list[Completion]:
        """Complete prompts; as `Engine.generate`.

        `hold` and `held` are not looked at: vLLM keeps the beginnings of prompts by itself.

        Returns:
            Prompt by prompt, a group's samples one after the other. Where the distribution that was
            drawn from is not the model's own, vLLM gives one of both: `sampled_logps` are nan, or
            with logprobs_mode=processed_logprobs `logps` are.
        Raises:
            ConfigError: a prompt is empty, group is below 1, or seeds do not fit.
        """
        texts = [[int(token) for token in prompt] for prompt in prompts]
        for index, text in enumerate(texts):
            if not text:
                raise ConfigError(f"prompt {index} is empty; give it at least one token")
        if group < 1:
            raise ConfigError(f"group={group} must be at least 1")
        each = [sampling] * len(texts) if isinstance(sampling, Sampling) else list(sampling)
        if seeds is None:
            seeds = [row_seed(one.seed, index) for index, one in enumerate(each)]
        if len(each) != len(texts):
            raise ConfigError(f"{len(each)} samplings for {len(texts)} prompts; give one each")
        if len(seeds) != len(texts):
            raise ConfigError(f"{len(seeds)} seeds for {len(texts)} prompts; give one each")
        prompts = [self.vllm.TokensPrompt(prompt_token_ids=text) for text in texts]
        settings = [self._settings(one, group, s) for one, s in zip(each, seeds, strict=True)]
        # A trainer's autocast is not vLLM's.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.autocast(device, enabled=False):
            found = self.llm.generate(prompts, settings, use_tqdm=False)
        return [
            self._completion(index, each[index], one)
            for index, result in enumerate(found)
            for one in sorted(result.outputs, key=lambda one: one.index)
        ]

    def _settings(self, sampling: Sampling, group: int, seed: int) -> Any:
        return self.vllm.SamplingParams(
            n=group,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            stop=list(sampling.stop),
            stop_token_ids=list(self.stop_ids),
            # Ours are the only ids that end a row.
            ignore_eos=True,
            # A signed integer of 64 bits is the widest that it takes.
            seed=seed % 2**63,
            logprobs=0,
            skip_special_tokens=True,
        )

    def _completion(self, prompt: int, sampling: Sampling, one: Any) -> Completion:
        tokens = list(one.token_ids)
        chosen = zip(tokens, one.logprobs, strict=True)
        logps = [float(by_token[token].logprob) for token, by_token in chosen]
        greedy = sampling.temperature == 0
        filtered = (sampling.top_k, sampling.top_p, sampling.min_p) != (0, 1.0, 0.0)
        changed = sampling.temperature != 1 or sampling.repetition_penalty != 1 or filtered
        unknown = [float("nan")] * len(tokens)
        sampled = [0.0] * len(tokens) if greedy else list(logps) if self.processed else unknown
        finish = LENGTH
        if one.finish_reason == "stop":
            finish = STOP_STRING if isinstance(one.stop_reason, str) else STOP
        return Completion(
            prompt=prompt,
            sample=one.index,
            tokens=tokens,
            logps=unknown if self.processed and changed else logps,
            sampled_logps=sampled if greedy or changed else list(logps),
            finish=finish,
            text=one.text,
        )
