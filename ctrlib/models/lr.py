"""LR: logistic regression on the ids, the floor that every other architecture stands on."""

from collections.abc import Sequence

from torch import Tensor, nn

from ctrlib.models.layers import FirstOrder


class LR(nn.Module):
    """One weight per id, added up: ``z = b + sum_f w[id_f]``. It sees no two fields together.

    Reference: Richardson et al. 2007, Predicting Clicks: Estimating the Click-Through Rate for New Ads (logistic
    regression for clicks); here on one-hot ids, which is the first-order part of Rendle 2010, equation 1.
    Variant: it has no embeddings and no MLP, so it takes the arguments of those only to be built like the others.

    Args:
        field_dims: number of ids of each field, F entries.
        embedding_dim: not used.
        hidden_units: not used.
        dropout: not used.
        batch_norm: not used.
    """

    def __init__(
        self,
        field_dims: Sequence[int],
        embedding_dim: int = 16,
        hidden_units: Sequence[int] = (400, 400, 400),
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.first_order = FirstOrder(field_dims)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        return self.first_order(ids)  # (B,)
