"""Sequence classifiers of a few weights, saved as their makers save them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

WORDS = "[PAD] [UNK] [CLS] [SEP] user assistant two and is four five right wrong".split()
TEMPLATE = (
    "{% if messages[0]['content'] == 'refuse' %}{{ raise_exception('not that') }}{% endif %}"
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
)
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SIZES |= {"hidden_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 24}


def tokenizer(*, pairs: bool, template: str | None) -> PreTrainedTokenizerFast:
    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if pairs:
        made.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"][:: 1 if pairs else 2]
    fast.chat_template = template
    return fast


def save(network: torch.nn.Module, folder: Path, **kind: object) -> str:
    network.save_pretrained(folder)
    tokenizer(**{"pairs": False, "template": None, **kind}).save_pretrained(folder)
    return str(folder)


def bert(folder: Path, bias: list[float] | None = None, **settings: object) -> str:
    """Takes question and answer as a pair; with a bias its logits are that, whatever the text."""
    settings = {"num_labels": 1, **settings}
    network = BertForSequenceClassification(BertConfig(pad_token_id=0, **SIZES, **settings))
    if bias is not None:
        network.classifier.weight.data.zero_()
        network.classifier.bias.data = torch.tensor(bias)
    return save(network, folder, pairs=True)


def llama(folder: Path, *, template: str | None = TEMPLATE, padding: int | None = 0) -> str:
    """Takes its chat template, or without one the two texts with a line break."""
    config = LlamaConfig(pad_token_id=padding, num_labels=1, **SIZES)
    return save(LlamaForSequenceClassification(config), folder, template=template)


def language_model(folder: Path) -> str:
    """What has no head that scores."""
    return save(LlamaForCausalLM(LlamaConfig(pad_token_id=0, **SIZES)), folder)
