"""Conversations as tokens: a chat template makes text of messages, and only the assistant's is learnt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from trainyard_api.errors import ConfigurationError
from trainyard_trainer.data.labelled.values import UnusableError

WHERE = "spec.fineTuning.chatTemplate"
_PROBE = ({"role": "user", "content": "Which?"}, {"role": "assistant", "content": "That."})
"""A conversation that every template takes."""


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja template and the special tokens that it may name.

    Attributes:
        text: the template.
        special_tokens: tokens by their names in templates, such as eos_token.
    """

    text: str
    special_tokens: Mapping[str, str]

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = False) -> str:
        """The text of some messages, as `apply_chat_template` of Transformers makes it.

        Raises:
            UnusableError: the template does not take them.
        """
        # Transformers takes seconds to import, and only conversations need it
        from transformers.utils import chat_template_utils  # noqa: PLC0415

        render: Any = chat_template_utils.render_jinja_template  # its annotations are not what it returns
        try:
            [text], _ = render(
                conversations=[[dict(message) for message in messages]],
                chat_template=self.text,
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise UnusableError(f"the chat template does not take the messages: {error}") from error
        return str(text)

    def check(self) -> None:
        """Refuse a template that cannot be used, before any record is read.

        Raises:
            ConfigurationError: it is no template, or leaves out what the assistant says.
        """
        try:
            text, spans = rendered_spans(self, _PROBE)
        except UnusableError as error:
            raise ConfigurationError(WHERE, str(error), _REMEDY) from error
        if not any("That." in text[start:end] for start, end in spans):
            raise ConfigurationError(WHERE, "the chat template leaves out what the assistant says", _REMEDY)


_REMEDY = "Set it to a Jinja template over messages with role and content, such as the model's own"


def chosen_template(given: str, config: Mapping[str, Any]) -> str:
    """The template of the spec, or the one that comes with the tokenizer.

    Args:
        given: that of the spec; empty when not set.
        config: tokenizer_config.json of the tokenizer.

    Raises:
        ConfigurationError: there is none.
    """
    if given:
        return given
    own = config.get("chat_template")
    if isinstance(own, list):
        named = {each.get("name"): each.get("template") for each in own if isinstance(each, dict)}
        own = named.get("default")
    if not isinstance(own, str) or not own:
        raise ConfigurationError(WHERE, "it is not set, and the tokenizer has no chat template", _REMEDY)
    return own


def rendered_spans(
    template: ChatTemplate, messages: Sequence[Mapping[str, str]]
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and where in it stands what the assistant has to write.

    A span begins after the prompt that asks for the answer and ends with the token that ends it; white space
    that the template puts behind is left out.

    Returns:
        The text, and (start, end) in characters of each answer.

    Raises:
        UnusableError: the template writes earlier messages otherwise when later ones follow, so that no
            place can be told.
    """
    text = template.render(messages)
    spans = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = template.render(messages[:number], add_generation_prompt=True)
        answered = template.render(messages[: number + 1])
        if not answered.startswith(prompt) or not text.startswith(answered.rstrip()):
            raise UnusableError(
                f"the chat template writes message {number + 1} otherwise when it is followed or asked for"
            )
        spans.append((len(prompt), len(answered.rstrip())))
    return text, spans


@cache
def _special_contents(tokenizer: Tokenizer) -> tuple[str, ...]:
    added = tokenizer.get_added_tokens_decoder().values()
    return tuple(token.content for token in added if token.special)


def refuse_special_tokens(messages: Sequence[Mapping[str, Any]], tokenizer: Tokenizer) -> None:
    """Refuse messages that spell a special token, which would forge the end of a message.

    Raises:
        UnusableError: one does.
    """
    for message in messages:
        for token in _special_contents(tokenizer):
            if token in message["content"]:
                raise UnusableError(f"a message spells the special token {token!r}")
