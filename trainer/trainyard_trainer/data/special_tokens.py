"""Special tokens: which an objective needs, and how a folder names them for stock Transformers."""

import json
from dataclasses import dataclass
from typing import Any, Literal

Objective = Literal["MaskedLM", "CausalLM"]
Role = Literal["pad", "unk", "cls", "sep", "mask", "bos", "eos"]

TRAINED: dict[Objective, dict[Role, str]] = {
    "MaskedLM": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "CausalLM": {"pad": "<pad>", "unk": "<unk>", "bos": "<s>", "eos": "</s>"},
}
"""Special tokens of tokenizers that Trainyard trains, in the order of their ids."""

USUAL: dict[Role, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>", "<|padding|>", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|im_start|>", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>"),
}
"""Usual names of special tokens, for a tokenizer.json that comes without a configuration."""


@dataclass(frozen=True)
class SpecialTokens:
    """Special tokens by role."""

    by_role: dict[Role, str]

    def transformers_config(self, chat_template: str = "") -> str:
        """The text of tokenizer_config.json, with a chat template where there is one."""
        names: dict[str, Any] = {f"{role}_token": token for role, token in self.by_role.items()}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            **names,
            **({"chat_template": chat_template} if chat_template else {}),
        }
        return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
