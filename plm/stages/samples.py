"""What the finished model says: held-out documents gone on with, held-out questions answered."""

from typing import Any

import numpy as np

from plm.data.conversation_shards import TARGET
from plm.data.packing import PackedStream
from plm.data.tokenizer import load as load_tokenizer
from plm.formats.common import IM_END
from plm.rollout.engine import Engine
from plm.rollout.sampling import Sampling


def draw(job: Any) -> list[dict[str, Any]]:
    """A few samples of each source, as the settings `samples` say.

    Of text the first tokens of a document are continued; of conversations the first question is
    answered, and of pairs what stands before their answers.
    """
    chosen = job.settings["samples"]
    if not chosen["number"] or not job.stage.placement.whole_weights:
        return []
    tokenizer = load_tokenizer(job.prepared.tokenizer_path)
    ends = [tokenizer.token_to_id(name) for name in (job.prepared.end_of_text, IM_END)]
    engine = Engine(
        job.model,
        tokenizer=tokenizer,
        stop_ids=[end for end in ends if end is not None],
        rope_theta=job.stage.rope_theta,
    )
    longest = job.model.max_position_embeddings
    found = []
    for index, name in enumerate(job.order.names):
        prompts = [p for p in _prompts(job, name, chosen) if len(p) < longest]
        room = longest - max(map(len, prompts), default=0)
        sampling = Sampling(
            max_new_tokens=min(chosen["new_tokens"], room),
            temperature=chosen["temperature"],
            top_k=chosen["top_k"],
            seed=job.settings["seed"] + index,
        )
        for prompt, made in zip(prompts, engine.generate(prompts, sampling), strict=True):
            found.append(
                {
                    "source": name,
                    # With the marks of the turns, where there are some.
                    "prompt": tokenizer.decode(prompt, skip_special_tokens=False),
                    "text": made.text,
                    "settings": f"temperature {chosen['temperature']:g}, top-k {chosen['top_k']}",
                }
            )
    return found


def _prompts(job: Any, name: str, chosen: dict[str, Any]) -> list[list[int]]:
    data, stream = job.prepared.sources[name]["val"], job.prepared.held_out[name]
    starts = data.doc_starts
    talks = isinstance(stream, PackedStream) and stream.targets is not None
    usable = np.arange(len(starts) - 1)
    if not talks:
        usable = np.flatnonzero(np.diff(starts) > 2 * chosen["prompt_tokens"])
    picked = usable[:: max(1, len(usable) // chosen["number"])][: chosen["number"]]
    prompts = []
    for document in picked:
        start, length = int(starts[document]), chosen["prompt_tokens"]
        if talks:
            mask = stream.targets.tokens(start, int(starts[document + 1]) - start)
            length = int(np.argmax(mask & TARGET))
        prompts.append(data.tokens(start, length).astype(np.int64).tolist())
    return prompts
