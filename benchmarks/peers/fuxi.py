"""FuxiCTR 2.3.10 through ``BaseModel.fit`` and its npz loader (``num_workers=0``).

Its wheel has the layers and the training loop but not the models, so the models are put together here from its own
layers as its documentation describes them. Patched: an empty Ray. Unlike ctrlib's: gradients are clipped in both.
"""

import logging
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks import sizes
from benchmarks.peers.compat import stand_in_for_ray
from benchmarks.table import Table


def fit(architecture: str, table: Table, batch: int, device: str) -> nn.Module:
    """One epoch; see :mod:`benchmarks.peers`."""
    stand_in_for_ray()
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.dataloaders import RankDataLoader

    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        names = [f"f{f}" for f in range(len(table.field_dims))]
        features = FeatureMap("bench", folder)
        features.features = OrderedDict(
            (name, {"source": "", "type": "categorical", "vocab_size": size})
            for name, size in zip(names, table.field_dims, strict=True)
        )
        features.labels = ["label"]
        features.num_fields = features.get_num_fields()
        features.default_emb_dim = sizes.EMBEDDING
        features.set_column_index()
        columns = {name: np.array(table.ids[:, f]) for f, name in enumerate(names)}
        np.savez(Path(folder) / "train.npz", label=table.labels.astype(np.int32), **columns)
        loader, _ = RankDataLoader(
            features,
            stage="train",
            train_data=str(Path(folder) / "train.npz"),
            batch_size=batch,
            shuffle=True,
            data_format="npz",
            num_workers=0,
        )
        model = make_model(architecture, features, folder, -1 if device == "cpu" else 0)
        model.save_weights(model.checkpoint)  # fit ends by loading the best weights: let there be some
        model.fit(loader, epochs=1, validation_data=None)
    return model


def make_model(architecture: str, features, folder: str, gpu: int) -> nn.Module:
    """One of its models, ready to fit."""
    from fuxictr.pytorch import layers
    from fuxictr.pytorch.models import BaseModel

    class Model(BaseModel):
        """Embeddings, the parts of one architecture, a sigmoid; training is all FuxiCTR's."""

        def __init__(self) -> None:
            super().__init__(
                features,
                model_id=architecture,
                gpu=gpu,
                verbose=0,
                model_root=folder,
                metrics=["AUC"],
                eval_steps=10**9,
            )
            self.embedding = layers.FeatureEmbedding(features, sizes.EMBEDDING)
            self.parts = PARTS[architecture](layers, features)
            self.compile("adam", "binary_crossentropy", sizes.LEARNING_RATE)
            self.reset_parameters()
            self.model_to_device()

        def forward(self, inputs: dict) -> dict:
            """FuxiCTR's batch -> its prediction."""
            ids = self.get_inputs(inputs)
            return {"y_pred": self.output_activation(self.parts(ids, self.embedding(ids)))}

    model = Model()
    Path(model.model_dir).mkdir(parents=True, exist_ok=True)
    return model


class DeepFM(nn.Module):
    """Factorization machine with first-order part, and an MLP."""

    def __init__(self, layers, features) -> None:
        super().__init__()
        self.fm = layers.FactorizationMachine(features)
        self.mlp = layers.MLP_Block(sizes.mlp_input("DeepFM"), list(sizes.HIDDEN), output_dim=1)

    def forward(self, ids: dict, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1)."""
        return self.fm(ids, embeddings) + self.mlp(embeddings.flatten(1))


class DCN(nn.Module):
    """Cross network and MLP side by side."""

    def __init__(self, layers, features) -> None:
        super().__init__()
        width = sizes.mlp_input("DCN")
        self.cross = layers.CrossNet(width, sizes.CROSS_LAYERS)
        self.mlp = layers.MLP_Block(width, list(sizes.HIDDEN))
        self.combine = nn.Linear(width + sizes.HIDDEN[-1], 1)

    def forward(self, ids: dict, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1)."""
        flat = embeddings.flatten(1)
        return self.combine(torch.cat([self.cross(flat), self.mlp(flat)], dim=1))


class PNN(nn.Module):
    """Inner products and flat embeddings into an MLP."""

    def __init__(self, layers, features) -> None:
        super().__init__()
        self.products = layers.InnerProductInteraction(features.num_fields, output="inner_product")
        self.mlp = layers.MLP_Block(sizes.mlp_input("PNN"), list(sizes.HIDDEN), output_dim=1)

    def forward(self, ids: dict, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1)."""
        return self.mlp(torch.cat([embeddings.flatten(1), self.products(embeddings)], dim=1))


class FiBiNET(nn.Module):
    """Two bilinear blocks, one on SENET's output, into an MLP; first-order part."""

    def __init__(self, layers, features) -> None:
        super().__init__()
        fields = features.num_fields
        self.first_order = layers.LogisticRegression(features)
        self.senet = layers.SqueezeExcitation(fields, reduction_ratio=3)
        self.raw = layers.BilinearInteraction(fields, sizes.EMBEDDING, sizes.BILINEAR)
        self.reweighted = layers.BilinearInteraction(fields, sizes.EMBEDDING, sizes.BILINEAR)
        self.mlp = layers.MLP_Block(sizes.mlp_input("FiBiNET"), list(sizes.HIDDEN), output_dim=1)

    def forward(self, ids: dict, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1)."""
        pairs = torch.cat([self.raw(embeddings), self.reweighted(self.senet(embeddings))], dim=1)
        return self.first_order(ids) + self.mlp(pairs.flatten(1))


PARTS = {"DeepFM": DeepFM, "DCN": DCN, "PNN": PNN, "FiBiNET": FiBiNET}
