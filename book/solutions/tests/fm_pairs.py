import torch

from ctrlib.models.layers import second_order_fm

feature_emb = torch.randn(4, 3, 2, dtype=torch.float64)
torch.testing.assert_close(over_pairs(feature_emb), second_order_fm(feature_emb))
torch.testing.assert_close(over_fields(feature_emb), second_order_fm(feature_emb))
