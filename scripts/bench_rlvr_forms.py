"""The two sides of bench_rlvr: our stage by train.py, and TRL's trainer, on the same prompts."""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.bench_preference import Peak


class Clock:
    """Times all steps but the first, and the peak above what is held before them.

    Args:
        steps: that are measured.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.seen = steps, 0
        self.begun: tuple[float, float] | None = None
        self.peak: Peak | None = None
        self.found: dict[str, Any] = {}

    def begin(self) -> None:
        """A step begins."""
        import torch

        if self.seen == 1:
            self.peak = Peak(torch.device("cpu"))
            self.begun = time.process_time(), time.perf_counter()
        self.seen += 1

    def end(self) -> None:
        """It has ended."""
        if self.seen == self.steps + 1 and self.begun is not None and self.peak is not None:
            cpu, wall = time.process_time(), time.perf_counter()
            self.found = {
                "cpu_s": (cpu - self.begun[0]) / self.steps,
                "wall_s": (wall - self.begun[1]) / self.steps,
                "peak_bytes": self.peak.bytes(),
            }


def reward(texts: list[str]) -> list[float]:
    """From 0 to 1, by a hash of each text: groups differ, and no side has an easier one."""
    import zlib

    return [zlib.crc32(text.encode()) % 100 / 99 for text in texts]


def prepare(own: dict[str, Any]) -> None:
    """The model, its tokenizer and the prompts, in own["folder"]."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder, wide = Path(own["folder"]), own["hidden"]
    config = LlamaConfig(
        vocab_size=own["vocab"], hidden_size=wide, intermediate_size=3 * wide,
        num_hidden_layers=own["layers"], num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=2 * (own["question"] + own["new"]), tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    words = {"<|end|>": 0, "<|pad|>": 1, **{f"w{n}": n for n in range(2, own["vocab"])}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|end|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>"
    ).save_pretrained(folder / "model")
    count = own["prompts"] * (own["steps"] + 1)
    draw = torch.randint(2, own["vocab"], (count, own["question"])).tolist()
    rows = [{"prompt": " ".join(f"w{n}" for n in one)} for one in draw]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ours(own: dict[str, Any]) -> dict[str, Any]:
    """Our stage, by train.py in this process."""
    import os

    from train import main

    folder, rollouts = Path(own["folder"]), own["prompts"] * own["group"]
    longest = own["question"] + own["new"]
    told = folder / "ours.json"
    os.environ["BENCH_RLVR"] = str(told)
    source = "data.sources.outcome"
    sys.argv = [
        "train.py", "+experiment=plm_rlvr", f"init_from={folder / 'model'}", "trust=[scripts]",
        f"runs_dir={folder / 'runs'}", "resume=never", f"threads={own['threads']}",
        f"prompts@{source}.prompts=rows", f"{source}.prompts.path={folder / 'prompts.jsonl'}",
        f"~task@{source}.held_out",
        f"{source}.rewards.right._target_=scripts.bench_rlvr_ours.by_hash",
        "precision=fp32", "samples.number=0", "checkpoint.every_tokens=0",
        f"scale.rlvr.seq_len={longest}", f"scale.rlvr.max_new_tokens={own['new']}",
        f"scale.rlvr.global_batch_tokens={rollouts * longest}",
        f"scale.tokens.rlvr={rollouts * longest * (own['steps'] + 1)}",
        f"scale.rlvr.micro_batch_size={own['micro']}", f"rollouts.group={own['group']}",
        f"rollouts.rows={rollouts}", "validation.every_tokens=0",
        f"+callbacks.clock={{_target_:scripts.bench_rlvr_ours.ClockCallback,steps:{own['steps']}}}",
    ]  # fmt: skip
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        code = main()
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os.dup2(out, 1)
    if code:
        raise RuntimeError(f"train.py ended with {code}")
    return json.loads(told.read_text())


def trl(own: dict[str, Any]) -> dict[str, Any]:
    """TRL's trainer, in this process."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(own["threads"])
    folder, rollouts = Path(own["folder"]), own["prompts"] * own["group"]
    clock, counted = Clock(own["steps"]), []

    class Tell(TrainerCallback):
        def on_step_begin(self, *args: Any, **others: Any) -> None:
            clock.begin()

        def on_step_end(self, *args: Any, **others: Any) -> None:
            clock.end()

    def judge(completions: list[str], **others: Any) -> list[float]:
        counted.append(sum(len(ids) for ids in others["completion_ids"]))
        return reward(completions)

    config = GRPOConfig(
        output_dir=str(folder / "trl"), use_cpu=True, bf16=False, fp16=False, report_to=[],
        per_device_train_batch_size=own["micro"],
        gradient_accumulation_steps=rollouts // own["micro"], num_generations=own["group"],
        max_completion_length=own["new"], max_steps=own["steps"] + 1, learning_rate=1e-6,
        loss_type="dapo", beta=0.0, temperature=1.0, save_strategy="no", logging_strategy="no",
        gradient_checkpointing=False, disable_tqdm=True, shuffle_dataset=False,
    )  # fmt: skip
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        reward_funcs=judge,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        callbacks=[Tell()],
    )
    trainer.train()
    return {**clock.found, "tokens": counted[-1], "version": version("trl")}


FORMS = {"ours": ours, "trl": trl}
