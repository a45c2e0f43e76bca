"""The one function through which every attention of the transformer goes."""

from torch import Tensor
from torch.nn import functional


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention over all keys, scaled by 1 / sqrt(head_dim), without a mask.

    Args:
        query: [batch, queries, heads, head_dim].
        key: [batch, keys, heads, head_dim], of the same dtype as `query`.
        value: [batch, keys, heads, head_dim], likewise.

    Returns:
        [batch, queries, heads * head_dim].
    """
    mixed = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    )
    return mixed.transpose(1, 2).flatten(2)
