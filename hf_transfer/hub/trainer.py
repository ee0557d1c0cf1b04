"""`PushingTrainer`: what `TransferTrainer` does about the Hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils import logging
from transformers.utils.hub import PushInProgress, hf_api

from hf_transfer.checkpoint import save_objectives, save_statistics
from hf_transfer.hub.arguments_file import save_training_arguments
from hf_transfer.hub.files import is_stale, pushed_files
from hf_transfer.hub.pushing import push_files
from hf_transfer.hub.repository import check_push, open_repository, repository_name
from hf_transfer.hub.staging import clear_stages, stage, without_machine_paths
from hf_transfer.hub.telling import push_command


if TYPE_CHECKING:
    from concurrent.futures import Future

    from huggingface_hub import CommitInfo

logger = logging.get_logger(__name__)

LAST_CHECKPOINT = "last-checkpoint"
"""Where `hub_strategy="checkpoint"` puts the newest checkpoint."""

__all__ = ["LAST_CHECKPOINT", "PushingTrainer"]


class PushingTrainer(Trainer):
    """
    A `Trainer` whose pushes are one commit each, hold no pickle of its arguments and no path of the machine, and tell
    when they fail.

    The stock one (transformers 5.23) uploads its whole output folder, runs and logs of others included, leaves what an
    older model had in the repository, reads checkpoints in the background while it deletes them, and drops the errors
    of that. `push_to_hub` and `_push_from_checkpoint` therefore do not call `super()`.

    What `hub_strategy` says of checkpoints holds: those are pushed whole, with the optimizer, scheduler and random
    state that `torch` pickles. Every other push is free of pickles.
    """

    push_in_progress: PushInProgress | None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Open the repository on the main process; one that is out of reach is a warning, and tried again later."""
        if not self.is_world_process_zero():
            return
        self.push_in_progress = None
        args = self.args
        given = token is not None or private is not None
        self.hub_model_id = self._open(token, private) if given or not args.push_to_hub else check_push(args)

    def _open(self, token: str | None, private: bool | None) -> str:
        args = self.args
        return open_repository(
            repository_name(args),
            token=args.hub_token if token is None else token,
            private=args.hub_private_repo if private is None else private,
            revision=args.hub_revision,
        )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(str(self.args.output_dir) if output_dir is None else output_dir)
        # Nothing in transformers 5.23 or accelerate 1.15 reads the pickle of the arguments, not even to resume.
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        save_training_arguments(self.args, folder, getattr(self.args, "recipe_options", ()))
        model = cast(Any, self.accelerator.unwrap_model(cast(nn.Module, self.model), keep_torch_compile=False))
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # a fingerprint of the base needs all ranks
        for name in () if sharded else getattr(model, "peft_config", ()):
            from hf_transfer.adapters.task_config import save_task_config

            inner = folder if name == "default" else folder / name
            if inner.is_dir() and hasattr(model, "get_base_model"):
                save_task_config(model, inner, name=name)
                save_statistics(model, inner)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ) -> CommitInfo:
        """
        Save the model, write its card, and push both in one commit. Only the main process pushes.

        Args:
            commit_message, blocking, token, revision, private, kwargs: as in `Trainer`.

        Returns:
            `CommitInfo`: the commit, that which is there already if nothing changed; a `Future` of it unless
            `blocking`.

        Raises:
            PermissionError: if the Hub refuses.
            ConnectionError: if it cannot be reached or is broken. Everything is in the output folder then, and the
                message has the command that pushes it later.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self._finish_current_push()  # before files are written that it may be reading
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return cast(Any, None)
        folder = str(self.args.output_dir)
        with_objectives = bool(getattr(self.args, "push_objectives", False)) and hasattr(self, "objectives")
        if with_objectives:
            save_objectives(cast(Any, self).objectives, Path(folder))
        name = kwargs.pop("model_name", None) or repository_name(self.args).split("/")[-1]
        tags = kwargs.pop("tags", None) or []
        tags = [tags] if isinstance(tags, str) else list(tags)
        tags += [tag for tag in getattr(self.model, "model_tags", None) or () if tag not in tags]
        self.create_model_card(model_name=name, **{**kwargs, **({"tags": tags} if tags else {})})
        if self.hub_model_id is None:
            self.hub_model_id = self._open_or_tell(token, private)
        files = pushed_files(folder, adapter=self._is_adapter, objectives=with_objectives)
        push = partial(
            push_files,
            without_machine_paths(files),
            self.hub_model_id,
            folder=folder,
            message=commit_message or "End of training",
            stale=lambda path: is_stale(path, files),
            **self._options(token, private, revision),
        )
        return push() if blocking else cast(Any, hf_api().run_as_future(push))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        strategy = HubStrategy(self.args.hub_strategy)
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        running = getattr(self, "push_in_progress", None)
        if running is not None and not running.is_done() and not self.args.hub_always_push:
            return
        if running is None or running.is_done():
            self._finish_current_push()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.hub_model_id = check_push(self.args)
            if self.hub_model_id is None:
                return
        whole = Path(checkpoint_folder)
        files = pushed_files(whole, adapter=self._is_adapter)
        files.pop("README.md", None)  # PEFT's draft; the card is written at the end
        inside = LAST_CHECKPOINT if strategy == HubStrategy.CHECKPOINT else whole.name
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            found = {f"{inside}/{path.relative_to(whole).as_posix()}": path for path in sorted(whole.rglob("*"))}
            files |= {path: file for path, file in found.items() if file.is_file() and file.name != "README.md"}
        if self.args.save_strategy == SaveStrategy.STEPS:
            message = f"Training in progress, step {self.state.global_step}"
        else:
            message = f"Training in progress, epoch {int(self.state.epoch or 0)}"
        staged = stage(files, str(self.args.output_dir))
        job = hf_api().run_as_future(
            partial(
                push_files,
                without_machine_paths(staged),
                self.hub_model_id,
                folder=str(self.args.output_dir),
                message=message,
                stale=lambda path: is_stale(path, staged) or (path.startswith(f"{inside}/") and path not in staged),
                **self._options(None, None, None),
            )
        )
        if running is None or running.is_done():
            self.push_in_progress = PushInProgress(cast(Any, [job]))
        else:
            cast(Any, running).jobs.append(job)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        running = getattr(self, "push_in_progress", None)
        if running is None:
            return
        jobs: list[Future] = list(cast(Any, running).jobs)
        for error in (job.exception() for job in jobs):
            if error is not None:
                logger.warning(f"{error} The run goes on.")
        self.push_in_progress = None
        clear_stages(str(self.args.output_dir))

    def _options(self, token: str | None, private: bool | None, revision: str | None) -> dict[str, Any]:
        args = self.args
        return {
            "token": args.hub_token if token is None else token,
            "private": args.hub_private_repo if private is None else private,
            "revision": args.hub_revision if revision is None else revision,
        }

    def _open_or_tell(self, token: str | None, private: bool | None) -> str:
        """Open the repository at the end of a run; what it cannot be pushed to is told with the command for later."""
        try:
            return self._open(token, private)
        except OSError as error:
            folder = str(self.args.output_dir)
            options = self._options(token, private, None)
            command = push_command(
                folder, repository_name(self.args), private=options["private"], revision=options["revision"]
            )
            told = str(error).split(" Nothing can be pushed")[0]
            raise type(error)(
                f"{told} Nothing was pushed, and everything is in {folder}. Push it later with `{command}`."
            ) from error

    @property
    def _is_adapter(self) -> bool:
        model = self.accelerator.unwrap_model(cast(nn.Module, self.model), keep_torch_compile=False)
        return hasattr(model, "peft_config") and hasattr(model, "get_base_model")
