"""Uses an exported folder where `plm` cannot be imported; prints what it found as one JSON line.

    python outside.py FOLDER OUT [--prompt 1,2,3] [--new-tokens 32]

Needs torch, transformers, accelerate and safetensors; runs with transformers 4.57 and later. Loads
FOLDER with its own code, generates, trains for ten steps and saves to OUT/trained, which it loads
again. `checks` holds what must be true whatever the model; the exit status is 1 if one is not.
"""

import argparse
import inspect
import json
import os
import sys
from pathlib import Path

# Any import of plm fails from here on, editable installs included.
sys.modules["plm"] = None


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--prompt", default="1,2,3")
    parser.add_argument("--new-tokens", type=int, default=32)
    return parser.parse_args()


ASKED = arguments()
os.environ["HF_MODULES_CACHE"] = str(ASKED.out / "modules")
os.environ["HF_HUB_OFFLINE"] = "1"

import accelerate  # noqa: E402
import safetensors  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

STEPS = 10
# Settings that say how a model was loaded or trained, not what it is.
OF_A_LOAD = {"transformers_version", "use_cache", "_name_or_path", "dtype", "torch_dtype"}


def without_plm() -> bool:
    try:
        import plm  # noqa: F401
    except ImportError:
        return True
    return False


def load(folder: Path, auto=AutoModelForCausalLM, **settings):
    """Model in fp32 and what was missing or left over in the files."""
    model, info = auto.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, **settings
    )
    faults = [key for name in sorted(info) for key in info[name]]
    return model.float().eval(), faults


def generated(model, rows, mask=None, **settings):
    """New tokens of every row, as lists."""
    settings = {"max_new_tokens": ASKED.new_tokens, "do_sample": False, **settings}
    mask = torch.ones_like(rows) if mask is None else mask
    found = model.generate(rows, attention_mask=mask, pad_token_id=0, eos_token_id=None, **settings)
    return found[:, rows.shape[1] :].tolist()


def generation(model, prompt: list[int]) -> tuple[dict, dict]:
    rows = torch.tensor([prompt])
    greedy = generated(model, rows)
    beams = {"num_beams": 3, "max_new_tokens": 8}
    short = torch.tensor([[0] * 5 + prompt, [*prompt, *([prompt[0]] * 5)]])
    mask = torch.ones_like(short)
    mask[0, :5] = 0
    facts = {"greedy": greedy[0], "beam": generated(model, rows, **beams)[0]}
    checks = {
        "greedy is the same without a cache": greedy == generated(model, rows, use_cache=False),
        "greedy is the same with a static cache": greedy
        == generated(model, rows, cache_implementation="static"),
        "beams are the same without a cache": [facts["beam"]]
        == generated(model, rows, use_cache=False, **beams),
        "left padding changes nothing": greedy[0] == generated(model, short, mask)[0],
    }
    return facts, checks


def fixed_batch(model, rows: int = 2, length: int = 16) -> torch.Tensor:
    count = torch.arange(rows * length)
    return ((count * count * 7 + count + 3) % model.config.vocab_size).view(rows, length)


def gradients(model, tokens: torch.Tensor) -> dict[str, float]:
    model.zero_grad()
    model(tokens, labels=tokens).loss.backward()
    return {name: part.grad.abs().max().item() for name, part in model.named_parameters()}


def settings_of_training(**more) -> TrainingArguments:
    common = {
        "output_dir": str(ASKED.out / "run"),
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": 0,
        "use_cpu": True,
        "gradient_checkpointing": True,
    }
    known = inspect.signature(TrainingArguments).parameters
    return TrainingArguments(**{name: common[name] for name in common if name in known}, **more)


def train(model, tokens: torch.Tensor) -> tuple[list[float], float]:
    """Losses of the steps, and of an evaluation afterwards."""
    rows = [{"input_ids": row, "labels": row} for row in tokens] * STEPS
    trainer = Trainer(
        model=model,
        args=settings_of_training(),
        train_dataset=rows,
        eval_dataset=rows[: len(tokens)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    evaluated = trainer.evaluate()["eval_loss"]
    trainer.save_model(ASKED.out / "trained")
    return losses, evaluated


def saved_again(model, tokens: torch.Tensor) -> dict[str, bool]:
    """Of OUT/trained, which the Trainer wrote."""
    folder = ASKED.out / "trained"
    again, faults = load(folder)
    weights = load_file(folder / "model.safetensors")
    tied = model.config.tie_word_embeddings
    base, _ = load(folder, AutoModel)
    model.eval()
    with torch.no_grad():
        logits, hidden = again(tokens).logits, base(tokens).last_hidden_state
        same = torch.equal(logits, model(tokens).logits)
        from_base = torch.equal(hidden @ model.get_output_embeddings().weight.T, logits)
    settings, kept = (
        AutoConfig.from_pretrained(place, trust_remote_code=True).to_dict()
        for place in (ASKED.folder, folder)
    )
    changed = {name for name in settings if settings[name] != kept.get(name)}
    return {
        "the trained folder loads whole": not faults,
        "the trained folder gives the same logits": same,
        "AutoModel gives the hidden states": from_base,
        "a head is saved if it is not tied": ("lm_head.weight" in weights) != tied,
        "the settings are kept": changed <= OF_A_LOAD,
        "the code is saved with the weights": all(
            (folder / f"{name}_plm.py").is_file() for name in ("configuration", "modeling")
        ),
    }


def main() -> int:
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    model, faults = load(ASKED.folder)
    checks = {"plm cannot be imported": without_plm(), "the folder loads whole": not faults}
    mapped, faults = load(ASKED.folder, device_map="cpu")
    tokens = fixed_batch(model)
    with torch.no_grad():
        logits = model(tokens).logits
        checks["a device map gives the same logits"] = torch.equal(logits, mapped(tokens).logits)
        narrow = AutoModelForCausalLM.from_pretrained(
            ASKED.folder, trust_remote_code=True, dtype=torch.bfloat16
        )
        checks["bf16 stays bf16"] = narrow(tokens).logits.dtype == torch.bfloat16
    facts, found = generation(model, [int(one) for one in ASKED.prompt.split(",")])
    checks |= found
    largest = gradients(model, tokens)
    losses, evaluated = train(model, tokens)
    checks["ten steps"] = len(losses) == STEPS
    checks["the loss falls"] = max(losses[-1], evaluated) < 0.8 * losses[0]
    checks |= saved_again(model, tokens)
    parts = (torch, transformers, accelerate, safetensors)
    versions = {part.__name__: part.__version__ for part in parts}
    report = {
        "versions": versions,
        "parameters": sum(part.numel() for part in model.parameters()),
        **facts,
        "losses": losses,
        "eval_loss": evaluated,
        "largest_gradient": largest,
        "checks": checks,
    }
    print(json.dumps(report))
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
