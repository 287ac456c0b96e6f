"""The policy as it is now, for what samples from it: the rollout engine, or vLLM."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from plm import pretrained
from plm.config import build
from plm.evaluation.subject import Subject, subject_of
from plm.export.hf import hf
from plm.formats.architecture import of_model, weights_of
from plm.formats.common import About
from plm.formats.hf_weights import to_hf

EXPORT = "vllm"
"""Folder of a run that vLLM starts from."""


class Policy:
    """The weights as they are, behind an engine.

    Where the strategy shares the weights out, a whole copy is filled anew each time.
    """

    def __init__(self, stage: Any, job: Any) -> None:
        self.stage, self.job = stage, job
        self.whole = stage.placement.whole_weights
        model = stage.model if self.whole else build(job.settings["model"]).to(stage.device)
        found = pretrained.Pretrained(
            path=job.folder.path,
            model=model,
            tokenizer=job.prepared.tokenizer_path,
            end_of_text=job.prepared.end_of_text,
            chat_template=job.chat_template,
        )
        plugin = stage.trainer.precision_plugin
        self.made = subject_of(
            found,
            rows=stage.drawing.rows,
            device_context=plugin.val_step_context,
            compiled=stage.drawing.compiled,
        )
        self.vllm = self._vllm() if stage.drawing.engine == "vllm" else None

    def subject(self) -> Subject:
        """With the weights as they are, behind the rollout engine."""
        if not self.whole:
            self.made.model.load_state_dict(whole_weights(self.stage))
        self.made.rope_theta = self.stage.rope_theta
        self.made.engine.rope_theta = self.stage.rope_theta
        return self.made

    def sampler(self) -> Subject:
        """With the weights as they are, behind the engine that rollouts are drawn by."""
        subject = self.subject()
        if self.vllm is None:
            return subject
        self.vllm.load(to_hf(weights_of(subject.model), self.architecture))
        return replace(subject, _engine=self.vllm)

    def _vllm(self) -> Any:
        """vLLM on this process's device, begun from an export of the weights."""
        from plm.rollout.vllm import VLLMEngine

        subject, folder = self.subject(), self.job.folder.path / EXPORT
        about = About(
            end_of_text=self.job.prepared.end_of_text,
            rope_theta=self.stage.rope_theta,
            chat_template=self.job.chat_template,
        )
        self.architecture = of_model(subject.model, about.rope_theta)
        if self.job.rank == 0 and not folder.exists():
            hf(subject.model, subject.tokenizer, folder, about=about)
        self.stage.trainer.strategy.barrier()
        stops = {subject.end_of_text, *(subject.chat.stop_ids if subject.chat is not None else ())}
        settings = {
            # What a token was drawn with, temperature and filters included.
            "logprobs_mode": "processed_logprobs",
            "dtype": "bfloat16" if self.stage.device.type == "cuda" else "float32",
            "max_num_seqs": self.stage.drawing.rows,
            # Each process its own, on its own device.
            **({"distributed_executor_backend": "external_launcher"} if self.job.world > 1 else {}),
            **self.stage.drawing.vllm,
        }
        return VLLMEngine(folder, stop_ids=sorted(stops), in_process=True, **settings)


def whole_weights(stage: Any) -> dict[str, Tensor]:
    """All weights on every process, where the strategy shares them out."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    if getattr(stage.model, "_plm_sharded", False):
        return get_model_state_dict(stage.model, options=StateDictOptions(full_state_dict=True))
    return stage.model.state_dict()
