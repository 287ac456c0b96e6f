"""One rank's parts of a run, built from its frozen configuration."""

import logging
import os
from typing import Any

import torch

from plm import checkpoint, handoff
from plm.callbacks.progress import DataProgress
from plm.config import build
from plm.data.epochs import check_epochs
from plm.data.loader import Batches
from plm.data.manifest import losses
from plm.data.open import open_data
from plm.data.order import Order
from plm.errors import ConfigError
from plm.phases import Plan
from plm.rlvr import prompts
from plm.rlvr.cursor import Cursor
from plm.rlvr.ticks import Ticks
from plm.rounds import round as rounds
from plm.rounds.template import Template
from plm.run import RunFolder
from plm.stages.origin import check_conditions, check_data
from plm.transform.common import Transforms

log = logging.getLogger("plm")


class Job:
    """One rank's parts of a run.

    Args:
        settings: the frozen configuration, plain.
        folder: the run's folder.
    """

    def __init__(self, settings: dict[str, Any], folder: RunFolder) -> None:
        self.settings, self.folder = settings, folder
        self.rank = int(os.environ.get("RANK", "0"))
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.stage_name = settings["stage"]["_target_"].rsplit(".", 1)[1].lower()
        if settings["threads"]:
            torch.set_num_threads(settings["threads"])
        self._find_start()
        self._data()
        self._plan()
        self._model()
        self._check_room()

    def _find_start(self) -> None:
        """Own checkpoint first; else what init_from names."""
        settings = self.settings
        path = self.folder.newest(settings["resume"])
        self.resumed = path is not None
        if path is not None:
            self.start = handoff.Start(path, checkpoint.read_meta(path), True)
            self.origin = self.start.meta["origin"]
            check_conditions(self.start)
        else:
            self.start = handoff.find(settings["init_from"], settings["init"], self.stage_name)
            self.origin = {
                "path": str(self.start.path) if self.start.path else None,
                "tokens_seen": self.start.tokens_seen,
                "cursors": self.start.cursors,
            }

    def _data(self) -> None:
        """Open the data; a round's are made first."""
        self.round = None
        node = self.settings["data"]
        if prompts.wanted(self.settings):
            self.prepared = prompts.open_prompts(self.settings, self.start, self.resumed)
            if self.start.everything:
                check_data(self.start, self.settings, self.prepared)
            return
        if rounds.wanted(self.settings):
            shown = DataProgress()
            try:
                self.round = rounds.made(
                    self.settings,
                    self.folder.path,
                    self.start,
                    resumed=self.resumed,
                    rank=self.rank,
                    world_size=self.world,
                    tell=shown if self.rank == 0 else None,
                )
            finally:
                shown.close()
            node = self.round.data(node)
        self.prepared = open_data(node, self.rank)
        if self.round is not None and self.rank == 0:
            for lost in losses(self.prepared.manifest):
                log.info("dropped  %s", lost.text)
        if self.start.everything:
            check_data(self.start, self.settings, self.prepared)

    def _plan(self) -> None:
        settings = self.settings
        sizes = {name: stream.n_tokens for name, stream in self.prepared.streams.items()}
        self.plan = Plan.read(settings["phases"], self.origin["tokens_seen"]).resolved(sizes)
        self._check_packed()
        self.order = self._ordered(sizes)
        data = settings["data"]
        check_epochs(self.order.epochs(), data["max_epochs"], data["past_max_epochs"])
        self.streams = [self.prepared.streams[name] for name in self.order.names]
        tokens = self.start.tokens_seen if self.resumed else self.plan.origin_tokens
        self.first_step = self.plan.step_at(tokens)
        self.transforms = Transforms.of(self.plan.phases)

    def _ordered(self, sizes: dict[str, int]) -> Any:
        settings, before = self.settings, self.origin["cursors"]
        if prompts.wanted(settings):
            group = settings["stage"]["rollouts"]["group"]
            return Cursor(self.plan, sizes, seed=settings["seed"], group=group, cursors=before)
        return Order(self.plan, sizes, self.prepared.block_tokens, settings["seed"], before)

    def batches(self) -> Any:
        """This rank's micro-batches, from where the run stands."""
        shared = {
            "micro_batch_size": self.settings["micro_batch_size"],
            "rank": self.rank,
            "world_size": self.world,
            "start_step": self.first_step,
        }
        if prompts.wanted(self.settings):
            return Ticks(self.plan, **shared)
        return Batches(self.order, self.streams, **shared)

    def _check_packed(self) -> None:
        size = self.prepared.block_tokens
        for planned in self.plan.phases:
            phase = planned.phase
            for name in set(phase.mixture) & set(self.prepared.packed):
                if phase.seq_len != size or not phase.isolate_documents:
                    raise ConfigError(
                        f"phases.{phase.name}: the source {name} is packed in windows of {size}, "
                        f"each document by itself; set seq_len={size} and isolate_documents=true "
                        "there, or leave the source out"
                    )

    def _model(self) -> None:
        settings = self.settings
        if self.prepared.vocab_size > settings["model"]["vocab_size"]:
            raise ConfigError(
                f"model.vocab_size={settings['model']['vocab_size']} is less than the tokenizer's "
                f"{self.prepared.vocab_size}"
            )
        self.model = build(settings["model"])
        self.model.init_weights(settings["seed"])
        self.transforms.replay(self.model, self.start.meta.get("transforms", []))
        if self.start.path is not None and not self.resumed:
            fresh = self._new_ids()
            self.model.load_state_dict(handoff.weights(self.start, self.model, new_ids=fresh))
        scaling = build(settings["scaling"])
        factors = {
            p.phase.name: scaling(
                base_batch=settings["scale"]["base_batch_tokens"],
                batch=p.phase.global_batch_tokens,
                optimizer=settings["optimizer"]["_target_"].rsplit(".", 1)[1],
                width=settings["model"]["hidden_size"],
            )
            for p in self.plan.phases
        }
        self.stage = build(
            settings["stage"],
            self.model,
            plan=self.plan,
            schedule=build(settings["schedule"])(
                self.plan.segments(), start_tokens=self.plan.origin_tokens
            ),
            make_optimizer=build(settings["optimizer"]),
            peak_lr=settings["peak_lr"],
            rate_factors=factors,
            losses={name: build(node) for name, node in settings["losses"].items() if node},
            clip_norm=settings["clip_norm"],
            seed=settings["seed"],
            transforms=self.transforms,
            regularizers={
                p.phase.name: {k: build(n) for k, n in p.phase.regularizers.items()}
                for p in self.plan.phases
            },
            compile_layers=settings["compile"],
        )
        self.stage.step = self.first_step
        self.stage.tokens_seen = self.plan.tokens_before(self.first_step)

    def _new_ids(self) -> list[int]:
        """Ids of the tokenizer that the start does not know."""
        data = self.settings["data"]
        if data["allow_changed"]:
            return []
        found = handoff.new_ids(self.start, self.prepared.tokenizer_path, data["new_tokens"])
        if found:
            log.info("%s new tokens: their rows begin as the mean of the others", len(found))
        return found

    @property
    def chat_template(self) -> str | None:
        """How the model's conversations become text: the data's, else that of where it began."""
        if self.prepared.chat_template is not None or self.start.path is None:
            return self.prepared.chat_template
        return handoff.chat_template(self.start)

    def told_of_pairs(self) -> dict[str, Any]:
        """What a checkpoint says of the refinement template, and of the run's round."""
        template = self.prepared.manifest.get("refinement")
        told = {} if self.round is None else {"round": self.round.told}
        if template is not None:
            told["refinement"] = {"text": template, "sha256": Template(template).sha256}
        elif "refinement" in self.start.meta:
            told["refinement"] = self.start.meta["refinement"]
        return told

    def files(self) -> dict[str, str]:
        """Texts by name that make a checkpoint enough by itself."""
        tokenizer = self.prepared.tokenizer_path.read_text(encoding="utf-8")
        own = {} if self.round is None else self.round.files()
        return {handoff.TOKENIZER: tokenizer, **own}

    def _check_room(self) -> None:
        # Weights and two moments in fp32: what AdamW keeps, and no optimizer here keeps more.
        one = 3 * 4 * sum(p.numel() for p in self.model.parameters())
        # A value model is one more of them.
        one *= 2 if self.settings["stage"].get("critic") is not None else 1
        ends = sum(planned.end_tokens > self.stage.tokens_seen for planned in self.plan.phases)
        # The last few, the ones at phase ends, and the one that is being written.
        number = self.settings["checkpoint"]["keep_last"] + ends + 1
        number -= len(list(self.folder.checkpoints.glob("tokens-*")))
        checkpoint.check_room(self.folder.checkpoints, one, number)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Held-out figures of every source now."""
        chosen = self.settings["validation"]
        with self.stage.trainer.precision_plugin.val_step_context():
            return self.stage.validate(
                self.model,
                {name: self.prepared.held_out[name] for name in self.order.names},
                self.prepared.token_bytes,
                seq_len=self.plan.max_seq_len,
                windows=chosen["windows"],
                micro_batch_size=self.settings["micro_batch_size"],
                isolate=self.plan.phases[0].phase.isolate_documents or bool(self.prepared.packed),
                device=self.stage.device,
                rope_theta=self.stage.rope_theta,
                rank=self.rank,
                world_size=self.world,
            )
