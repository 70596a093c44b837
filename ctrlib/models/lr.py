"""LR: logistic regression on the ids, the floor that every other architecture stands on."""

from collections.abc import Sequence

from torch import Tensor, nn

from ctrlib.models.layers import FirstOrder


class LR(nn.Module):
    """One weight per id, added up: ``z = b + sum_f w[id_f]``. It sees no two fields together.

    Reference: Richardson et al. 2007, Predicting Clicks: Estimating the Click-Through Rate for New Ads (logistic
    regression for clicks); here on one-hot ids, which is the first-order part of Rendle 2010, equation 1.
    """

    def __init__(self, field_dims: Sequence[int]) -> None:
        super().__init__()
        self.first_order = FirstOrder(field_dims)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (B, F) int64 to logits (B,)."""
        return self.first_order(ids)  # (B,)
