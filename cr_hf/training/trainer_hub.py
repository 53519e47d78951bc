"""`Trainer.push_to_hub` through the validated path of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer


class HubTrainer(Trainer):
    """`Trainer` whose `push_to_hub` publishes as `cr-hf publish` does: checked, in one commit, verified.

    Nothing is asked of the network before `push_to_hub` is called, and no checkpoint is pushed on the way:
    `Trainer` would publish pickles and half-trained weights on the main branch.
    """

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Note the name of the repository; it is made when something is published."""
        name: Any = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        self.hub_model_id = name

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Publish the model as it is now, with a card from the trainer's own figures.

        Args:
            commit_message: of the commit.
            blocking: must be True: what was published is verified before this returns.
            token: `args.hub_token` or the one that is logged in by default.
            revision: must be None: the main branch is published.
            private: of a repository that is made; `args.hub_private_repo` by default.
            **kwargs: `tag`, `head_only` and `license`, as `publish_run` takes them.

        Returns:
            A `Published`; `None` in other processes than the first.

        Raises:
            PublishError: saying what was published, what was not, and the mend.
            ValueError: for an option of `Trainer.push_to_hub` that this does not have.
        """
        if not blocking or revision is not None or set(kwargs) - {"tag", "head_only", "license"}:
            raise ValueError("CRTrainer.push_to_hub takes commit_message, token, private, tag, head_only and license")
        self.init_hf_repo()
        if not self.is_world_process_zero():
            return None
        # The one import that runs upwards, and only here: whoever trains need not load what publishes.
        from ..hub import publish_trainer

        return publish_trainer(
            self,
            str(self.hub_model_id),
            token=token or self.args.hub_token,
            private=self.args.hub_private_repo if private is None else private,
            message=commit_message,
            **kwargs,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Only `push_to_hub` publishes."""
