"""torch-rechub 0.9.0 through ``CTRTrainer.fit``.

Unlike ctrlib's: batch norm is hard-wired into its MLP and is taken out here; DeepFM's first-order part is a linear
layer on the embeddings, not a weight per code; FiBiNET has one bilinear block for both inputs and no first-order part.
"""

import tempfile

import numpy as np
from torch import nn

from benchmarks import sizes
from benchmarks.table import Table


def fit(architecture: str, table: Table, batch: int, device: str) -> nn.Module:
    """One epoch; see :mod:`benchmarks.peers`."""
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.ranking import DCN, DeepFM, FiBiNet
    from torch_rechub.trainers import CTRTrainer
    from torch_rechub.utils.data import DataGenerator

    features = [SparseFeature(f"f{f}", size, sizes.EMBEDDING) for f, size in enumerate(table.field_dims)]
    mlp = {"dims": list(sizes.HIDDEN), "dropout": 0.0, "activation": "relu"}
    if architecture == "DeepFM":
        model = DeepFM(features, features, mlp)
    elif architecture == "DCN":
        model = DCN(features, sizes.CROSS_LAYERS, mlp)
    else:
        model = FiBiNet(features, mlp, reduction_ratio=3, bilinear_type=sizes.BILINEAR)
    without_batch_norm(model)
    rows = {f"f{f}": np.array(table.ids[:, f]) for f in range(len(features))}
    labels = table.labels.astype(np.float32)
    some = {name: column[:2] for name, column in rows.items()}
    loader, _, _ = DataGenerator(rows, labels).generate_dataloader(
        x_val=some, y_val=labels[:2], x_test=some, y_test=labels[:2], batch_size=batch, num_workers=0
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = CTRTrainer(
            model,
            optimizer_params={"lr": sizes.LEARNING_RATE, "weight_decay": 0.0},
            n_epoch=1,
            device=device,
            model_path=folder,
        )
        trainer.fit(loader)
    return model


def without_batch_norm(model: nn.Module) -> None:
    """Replace every batch norm inside ``model`` by nothing."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm1d):
                setattr(module, name, nn.Identity())
