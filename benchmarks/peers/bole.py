"""RecBole 1.2.1 through ``Trainer.fit``.

Patched: NumPy-2 names, an empty Ray, batch norm taken out of DCN's MLP, and the number of codes of each field, which
RecBole would otherwise count in the few rows it is given. Unlike ctrlib's: DCN adds the L2 norm of its cross weights
(weight 0 here), and every model keeps a first-order table whether it is used or not.
"""

import os
import tempfile
from logging import disable
from pathlib import Path

import pandas as pd
from torch import nn

from benchmarks import sizes
from benchmarks.peers.compat import add_numpy_aliases, stand_in_for_ray
from benchmarks.peers.rechub import without_batch_norm
from benchmarks.table import Table


def fit(architecture: str, table: Table, batch: int, device: str) -> nn.Module:
    """One epoch; see :mod:`benchmarks.peers`. All but a handful of the rows are training rows."""
    add_numpy_aliases()
    stand_in_for_ray()
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    disable()
    with tempfile.TemporaryDirectory() as folder:
        write(table, Path(folder) / "bench")
        os.chdir(folder)  # it writes its logs into the current folder
        config = Config(model=architecture, dataset="bench", config_dict=settings(folder, batch, device))
        init_seed(1, True)
        dataset = create_dataset(config)
        train, _, _ = data_preparation(config, dataset)
        names = [f"f{f}" for f in range(len(table.field_dims))]
        codes = dict(zip(names, table.field_dims, strict=True))
        counted = train._dataset.num
        train._dataset.num = lambda field: max(codes.get(field, 0), counted(field))
        model = get_model(architecture)(config, train._dataset).to(config["device"])
        without_batch_norm(model)
        get_trainer(config["MODEL_TYPE"], config["model"])(config, model).fit(train, saved=False, verbose=False)
        os.chdir("/")
    return model


def settings(folder: str, batch: int, device: str) -> dict:
    """RecBole's own names for the sizes of the comparison."""
    return {
        "data_path": folder,
        "checkpoint_dir": folder,
        "use_gpu": device != "cpu",
        "load_col": None,
        "USER_ID_FIELD": "f0",
        "ITEM_ID_FIELD": "f1",
        "LABEL_FIELD": "label",
        "threshold": None,
        "train_neg_sample_args": None,
        "eval_args": {"split": {"RS": [0.9998, 0.0001, 0.0001]}, "order": "RO", "group_by": None, "mode": "labeled"},
        "metrics": ["AUC", "LogLoss"],
        "valid_metric": "AUC",
        "epochs": 1,
        "eval_step": 0,
        "train_batch_size": batch,
        "learning_rate": sizes.LEARNING_RATE,
        "embedding_size": sizes.EMBEDDING,
        "mlp_hidden_size": list(sizes.HIDDEN),
        "dropout_prob": 0.0,
        "cross_layer_num": sizes.CROSS_LAYERS,
        "reg_weight": 0.0,
        "use_inner": True,
        "use_outer": False,
        "show_progress": False,
        "shuffle": True,
    }


def write(table: Table, folder: Path) -> None:
    """The rows as RecBole's own text file."""
    folder.mkdir()
    frame = pd.DataFrame(table.ids, columns=[f"f{f}:token" for f in range(table.ids.shape[1])])
    frame["label:float"] = table.labels
    frame.to_csv(folder / "bench.inter", sep="\t", index=False)
