"""`push_to_hub` of the Trainer: what `bndl_hf.hub.push_to_hub` publishes, and nothing else of the output folder.

Departure: transformers' Trainer uploads its whole output folder, training_args.bin with paths and token among it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, SaveStrategy

from bndl_hf.hub import HubError, push_to_hub
from bndl_hf.hub.errors import hub_error

logger = logging.getLogger(__name__)


class HubPublishing(Trainer):
    """The publishing half of `BNDLTrainer`."""

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """As in `Trainer`, before anything is trained.

        Raises:
            HubError: the repository is not there and cannot be made; the message says why.
        """
        try:
            super().init_hf_repo(token=token, private=private)
        except (HTTPError, HFValidationError, OSError) as error:
            repo_id = str(self.args.hub_model_id or self.args.output_dir)
            raise hub_error("Making", repo_id, error) from error

    def push_to_hub(  # type: ignore[override]  # a Future where it does not block, None in other processes
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        results: Mapping[str, Any] | None = None,
        **card_facts: Any,
    ) -> CommitInfo | Future | None:
        """Save the model, then publish it with its processor, results and card as one commit.

        Args:
            commit_message, blocking, token, revision, private: as in `Trainer.push_to_hub`.
            results: measured figures; None takes those of the last evaluation.
            **card_facts: base_model, dataset_name, license and more, and `thumbnails` of the factors: see
                `bndl_hf.hub.push_to_hub`.

        Returns:
            The commit; a Future of it where `blocking` is False; None in every process but the first.

        Raises:
            HubError: the push failed; nothing on the Hub was changed.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        arguments = {
            "results": self._last_evaluation() if results is None else results,
            "commit_message": commit_message,
            "token": self.args.hub_token if token is None else token,
            "revision": self.args.hub_revision if revision is None else revision,
            "private": self.args.hub_private_repo if private is None else private,
            **card_facts,
        }
        if card_facts.get("card") is None:
            arguments.setdefault("training", self.training_facts())
        model, processor, repo_id = self._published
        if blocking:
            return push_to_hub(model, processor, repo_id, **arguments)
        return HfApi().run_as_future(push_to_hub, model, processor, repo_id, **arguments)

    def training_facts(self) -> dict[str, str]:
        """What the card's table of training says, as far as this Trainer knows it; {} before the first step."""
        args, state = self.args, self.state
        if not state.global_step:
            return {}
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        model = self.accelerator.unwrap_model(self.model)
        is_frozen = not any(p.requires_grad for name, p in model.named_parameters() if "decision_layer" not in name)
        schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        facts = {
            "Backbone": "frozen" if is_frozen else "trained together with the decision layer",
            "Steps": f"{state.global_step:,} of {batch:,} images",
            "Learning rate": f"{args.learning_rate:g}, {schedule}",
            "Seed": str(args.seed),
        }
        return {**facts, **({"Epochs": f"{state.epoch:.4g}"} if state.epoch else {})}

    @property
    def _published(self) -> tuple[Any, Any, Any]:
        """Model, image processor and repository."""
        return self.accelerator.unwrap_model(self.model), self.processing_class, self.hub_model_id

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish the model as it stands after a checkpoint.

        Training waits, because its weights go on changing, but does not end when the Hub cannot be reached: the
        checkpoint is on disk, and the next one is published again.
        """
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        progress = f"step {self.state.global_step}" if by_steps else f"epoch {int(self.state.epoch or 0)}"
        try:
            push_to_hub(
                *self._published,
                results=self._last_evaluation(),
                commit_message=f"Training in progress, {progress}",
                token=self.args.hub_token,
                revision=self.args.hub_revision,
                training=self.training_facts(),
            )
        except HubError as error:
            logger.warning(f"{error} Training goes on; {checkpoint_folder} is complete.")

    def _last_evaluation(self) -> dict[str, Any]:
        """Metrics of the latest evaluation, without the "eval_" before their names."""
        for entry in reversed(self.state.log_history):
            if any(name.startswith("eval_") for name in entry):
                return {name.removeprefix("eval_"): v for name, v in entry.items() if name.startswith("eval_")}
        return {}
