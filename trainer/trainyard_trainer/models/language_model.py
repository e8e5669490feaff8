"""A Transformers language model with isolated documents and a loss only where it predicts."""

from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from trainyard_trainer.methods.losses import cross_entropy_sum
from trainyard_trainer.models.sight import Sight, attention_windows, same_group
from trainyard_trainer.models.view import View

AttentionMask = torch.Tensor | dict[str, torch.Tensor]


class LanguageModel(nn.Module):
    """Backbone and head of a Transformers model; forward gives the summed loss of a micro-batch.

    The parameters keep their Transformers names behind the prefix `model.`.

    Args:
        model: a masked or causal language model.
        causal: whether a token may only see those before it.
        isolate_documents: whether attention stays inside each document of a row.
        mask_dtype: number format of queries and keys, in which the attention mask must be.
        most_places: see `losses.sum_over_places`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        causal: bool,
        isolate_documents: bool,
        mask_dtype: torch.dtype,
        most_places: int | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.causal = causal
        self.isolate_documents = isolate_documents
        self.mask_dtype = mask_dtype
        self.most_places = most_places
        self.sliding_window = _sliding_window(model)

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        document_ids: torch.Tensor,
        predicted_places: torch.Tensor,
        labels: torch.Tensor,
    ) -> torch.Tensor:
        """Summed cross-entropy of a micro-batch, in nats and fp32.

        Args:
            input_ids: int64 [rows, length].
            position_ids: int64 [rows, length], restarting at each document when they are isolated.
            document_ids: int64 [rows, length], the number of the document in its row, -1 at padding.
            predicted_places: int64 [m], places in the flattened [rows x length] batch.
            labels: int64 [m].
        """
        return self.loss_sum(self.view(input_ids, position_ids, document_ids, predicted_places, labels))

    def view(  # noqa: PLR0913 - the tensors of a batch
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        document_ids: torch.Tensor,
        predicted_places: torch.Tensor,
        labels: torch.Tensor,
        *,
        of_layers: bool = False,
    ) -> View:
        """The batch through the model, before the loss; arguments are those of `forward`.

        Args:
            input_ids: see `forward`.
            position_ids: see `forward`.
            document_ids: see `forward`.
            predicted_places: see `forward`.
            labels: see `forward`.
            of_layers: whether to keep the output of the embeddings and of each layer.
        """
        mask = attention_mask(
            document_ids,
            causal=self.causal,
            isolate_documents=self.isolate_documents,
            dtype=self.mask_dtype,
            sliding_window=self.sliding_window,
        )
        arguments = {"use_cache": False} if self.causal else {}
        if of_layers:
            arguments["output_hidden_states"] = True
        backbone = self.model.base_model
        output = backbone(input_ids=input_ids, position_ids=position_ids, attention_mask=mask, **arguments)
        return View(
            states=output.last_hidden_state.flatten(0, 1),
            head=self.project,
            labelled=predicted_places,
            labels=labels,
            is_token=document_ids.flatten() >= 0,
            has_tokens=True,
            sight=Sight(
                _groups(document_ids, isolate_documents=self.isolate_documents),
                causal=self.causal,
                windows=attention_windows(self.model.config),
            ),
            layers=tuple(layer.flatten(0, 1) for layer in output.hidden_states) if of_layers else (),
            most_places=self.most_places,
        )

    def next_logits(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, attention_mask: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        """Logits of the token after each row, [rows, vocabulary]; of a causal model.

        Args:
            input_ids: int64 [rows, new], the tokens behind those of the cache.
            position_ids: int64 [rows, new].
            attention_mask: int64 [rows, all], 0 at the padding before a row, tokens of the cache included.
            cache: keys and values of the tokens before, to which those of the new ones are added.
        """
        output = self.model.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
        )
        return self.project(output.last_hidden_state[:, -1])

    def loss_sum(self, view: View) -> torch.Tensor:
        """Summed cross-entropy of the labels of a view."""
        states = view.states.index_select(0, view.labelled)
        return cross_entropy_sum(states, view.labels, view.head, most_places=view.most_places)

    def project(self, hidden: torch.Tensor) -> torch.Tensor:
        """Vocabulary logits [m, vocabulary] of hidden states [m, hidden size]."""
        return vocabulary_logits(self.model, hidden)


def vocabulary_logits(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Vocabulary logits [m, vocabulary] of hidden states [m, hidden size], by the model's own head."""
    if hasattr(model, "cls"):
        return cast("torch.Tensor", model.cls(hidden))
    if hasattr(model, "lm_head"):
        return cast("torch.Tensor", model.lm_head(hidden))
    return cast("torch.Tensor", model.decoder(model.head(hidden)))


def _sliding_window(model: PreTrainedModel) -> int | None:
    """Half the local attention window of a model that mixes local and global layers, else None."""
    if "sliding_attention" not in (getattr(model.config, "layer_types", None) or ()):
        return None
    return int(model.config.sliding_window)


def attention_mask(
    document_ids: torch.Tensor,
    *,
    causal: bool,
    isolate_documents: bool,
    dtype: torch.dtype,
    sliding_window: int | None = None,
) -> AttentionMask | None:
    """The additive attention mask, 0 where a query may look and the smallest number elsewhere.

    Padding sees only padding, so that no row of the softmax is empty. None means full attention
    (bidirectional) or the plain causal pattern, which lets the attention kernel choose its fastest path.

    Args:
        document_ids: int64 [rows, length], -1 at padding.
        causal: whether a query sees only keys before it and itself.
        isolate_documents: whether a query sees only keys of its own document.
        dtype: number format of the result.
        sliding_window: how far local layers look to each side; given, the result holds one mask per layer
            type.

    Returns:
        [rows, 1, length, length], or one such per layer type, or None.
    """
    groups = _groups(document_ids, isolate_documents=isolate_documents)
    if sliding_window is None and bool((groups == 0).all()):
        return None
    allowed = same_group(groups, causal=causal)
    if sliding_window is None:
        return _additive(allowed, dtype)
    return {
        "full_attention": _additive(allowed, dtype),
        "sliding_attention": _additive(same_group(groups, causal=causal, window=sliding_window), dtype),
    }


def _groups(document_ids: torch.Tensor, *, isolate_documents: bool) -> torch.Tensor:
    """Which tokens of a row may see each other at all, int64 [rows, length], -1 at padding."""
    return document_ids if isolate_documents else document_ids.clamp(max=0)


def _additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask for all heads, [rows, 1, length, length]."""
    allowed = allowed[:, None]
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(
        ~allowed, torch.finfo(dtype).min
    )
