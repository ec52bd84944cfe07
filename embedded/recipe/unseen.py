"""Embeddings for the tokens that no document has, such as `_`, `/` and the bytes of other alphabets.

Pretraining only pushes these tokens down, all in one direction, so that their embeddings end up nearly equal. The
embedding is the output layer as well, and LoRA trains neither: an adapter could learn that one of them comes next, but
not which. Each gets a direction of its own beside the common one, as long as those of the other tokens are.
"""

from itertools import islice
from typing import Final

import torch
from torch.nn import functional
from transformers import PreTrainedTokenizerBase

from embedded.recipe.tokenizer import texts

_DOCUMENTS: Final = 20_000


def unseen_tokens(tokenizer: PreTrainedTokenizerBase, seed: int) -> list[int]:
    """Return the ids, special tokens left out, that the first documents of the mixture have nowhere."""
    encoded = tokenizer.backend_tokenizer.encode_batch(list(islice(texts(seed), _DOCUMENTS)))
    seen = {token for document in encoded for token in document.ids}
    return sorted(set(range(len(tokenizer))) - seen - set(tokenizer.all_special_ids))


def separate(embedding: torch.Tensor, unseen: list[int], seed: int) -> None:
    """Write new rows for the `unseen` tokens into `embedding` (tokens x width, any float dtype)."""
    is_unseen = torch.zeros(len(embedding), dtype=torch.bool)
    is_unseen[unseen] = True
    common, others = embedding[is_unseen].float().mean(0), embedding[~is_unseen].float()
    length = (others - others.mean(0)).norm(dim=1).median()
    drawn = torch.randn(len(unseen), embedding.shape[1], generator=torch.Generator().manual_seed(seed))
    embedding[is_unseen] = (common + length * functional.normalize(drawn, dim=1)).to(embedding.dtype)
