"""A conversation in which the model is shown its last answer and asked for a better one."""

from __future__ import annotations

from dataclasses import dataclass

from plm.errors import ConfigError
from plm.rounds.template import Template
from plm.serving.talk import Talk, Turn


@dataclass
class Refining(Talk):
    """A `Talk` whose answers can be refined.

    What the model is shown for it takes the place of the question; the conversation then goes on
    from the question and the better answer, as if that had been the first one.

    Args:
        template: how an answer is shown; None: answers cannot be refined.
    """

    template: Template | None = None

    def refine(self, asked: str, answered: str) -> Turn:
        """Prepare a better answer to a question that is not part of the conversation yet.

        Raises:
            ConfigError: the model knows no conversations, or question and answer leave no room.
        """
        template = self._known()
        try:
            return self.ask(template.render(asked, answered))
        except ConfigError as error:
            raise ConfigError(
                f"question and answer, shown once more, leave no room in the context of "
                f"{self._served.context}"
            ) from error

    def take_back(self) -> tuple[str, str]:
        """The last question and answer, which are part of the conversation no more.

        Raises:
            ConfigError: there is none, or the model knows no conversations; nothing has changed.
        """
        self._known()
        if not self.messages:
            raise ConfigError("nothing was said yet that could be refined")
        *self.messages, asked, answered = self.messages
        return asked["content"], answered["content"]

    def _known(self) -> Template:
        if self.chat is None or self.template is None:
            raise ConfigError("this model knows no conversations, in which answers are refined")
        return self.template
