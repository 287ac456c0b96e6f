"""What a recipe says of its tokenizer: one that is trained on it, or an existing one."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from plm.data.tokenizer import PATTERNS
from plm.errors import ConfigError


@dataclass(frozen=True)
class TokenizerSettings:
    """The tokenizer: trained on the recipe's train split, or an existing one (`file`, `hub`).

    Attributes:
        kind: byte_level_bpe.
        pre_tokenizer: how a tokenizer that is trained splits text: qwen2, gpt2 or llama3.
        special_tokens: of a tokenizer that is trained, in the order of their ids, from 0.
        sample_bytes: how much text it is trained on at most.
        file: an existing tokenizer.json; a relative path is meant from the recipe's folder.
        hub: an existing tokenizer's name on the Hugging Face Hub, or a folder of that form.
        revision: of hub, a commit where figures are to be repeated.
        end_of_text: the special token that ends a document; None: the first special token.
        new_tokens: special tokens to add behind those of an existing tokenizer.
    """

    kind: str = "byte_level_bpe"
    pre_tokenizer: str = "qwen2"
    special_tokens: list[str] = field(
        default_factory=lambda: ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    sample_bytes: int = 8_000_000
    file: str | None = None
    hub: str | None = None
    revision: str | None = None
    end_of_text: str | None = None
    new_tokens: list[str] = field(default_factory=list)

    @property
    def adopted(self) -> bool:
        """Whether an existing tokenizer takes the place of training one."""
        return bool(self.file or self.hub)

    def content_mark(self) -> str | None:
        """sha256, hex, of an existing tokenizer on this machine; None: the settings say it all."""
        path = Path(self.file) if self.file else Path(self.hub or "") / "tokenizer.json"
        if not self.adopted or not path.is_file():
            return None
        return hashlib.sha256(path.read_bytes()).hexdigest()


def check_tokenizer(settings: TokenizerSettings, file: Path | str) -> None:
    """Raise ConfigError for settings that cannot work; `file` is what the message names first."""
    if settings.kind != "byte_level_bpe":
        raise ConfigError(f"{file}: tokenizer.kind={settings.kind}: only byte_level_bpe is known")
    if settings.pre_tokenizer not in PATTERNS:
        raise ConfigError(
            f"{file}: tokenizer.pre_tokenizer={settings.pre_tokenizer}: "
            f"one of {', '.join(PATTERNS)}"
        )
    if settings.hub and not settings.revision:
        raise ConfigError(
            f"{file}: tokenizer.revision is missing: a commit (or branch) of {settings.hub}"
        )
    new = settings.new_tokens
    if not isinstance(new, list) or not all(isinstance(t, str) and t for t in new):
        raise ConfigError(f"{file}: tokenizer.new_tokens={new} is not a list of texts")
    if new and not settings.adopted:
        raise ConfigError(
            f"{file}: tokenizer.new_tokens extends an existing tokenizer; one that is trained "
            "takes special_tokens"
        )
    if settings.revision and not settings.hub:
        raise ConfigError(f"{file}: tokenizer.revision needs tokenizer.hub")
    special, end = settings.special_tokens, settings.end_of_text
    if not isinstance(special, list) or not all(isinstance(t, str) and t for t in special):
        raise ConfigError(f"{file}: tokenizer.special_tokens={special} is not a list of texts")
    if len(set(special)) < len(special):
        raise ConfigError(f"{file}: tokenizer.special_tokens names a token twice: {special}")
    if not special:
        raise ConfigError(f"{file}: tokenizer.special_tokens is empty; one has to end documents")
    if end is not None and not settings.adopted and end not in special:
        raise ConfigError(
            f"{file}: tokenizer.end_of_text={end} is not in tokenizer.special_tokens "
            f"({', '.join(special)})"
        )
    if not isinstance(settings.sample_bytes, int) or settings.sample_bytes <= 0:
        raise ConfigError(
            f"{file}: tokenizer.sample_bytes={settings.sample_bytes} is not a positive whole number"
        )
