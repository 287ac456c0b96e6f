"""Writes conversations out as ChatML, as plain text for pretraining.

The tokenizer takes text that looks like its special tokens for ordinary text, on purpose: nobody's
document can end a turn. So `<|im_start|>` is several tokens in what this step makes. A source that
says `conversations: true` in the place of this step gets the real special tokens.
"""

from collections.abc import Iterator

from plm.data.conversations import BadConversation, Conversation, check
from plm.data.documents import Document, per_document
from plm.data.tally import Tally
from plm.errors import DataError
from plm.formats.chat import CHATML
from plm.formats.chat_render import render


@per_document
def chat(documents: Iterator[Document], *, tally: Tally) -> Iterator[Document]:
    """From conversations to `<|im_start|>role\\ncontent<|im_end|>\\n` a message.

    Args:
        documents: the text of each is what `Conversation.to_text` gives, or a JSON list of
            messages. The last word may be the user's.
        tally: nothing is dropped and nothing counted; what is no conversation is an error.
    Raises:
        DataError: the document, the message, and what is wrong with it.
    """
    template = CHATML.read_text(encoding="utf-8")
    for document in documents:
        try:
            talk = Conversation.from_text(document.text)
            check(talk.messages, answered=None)
            text = render(template, talk.messages, tools=talk.tools)[0]
        except BadConversation as error:
            raise DataError(f"chat: {document.name}: {error}") from error
        yield Document(text, document.name, document.group)
