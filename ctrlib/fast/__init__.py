"""The same numbers sooner: kernels, CUDA graphs, first layers per distinct id, settings of the machine.

Nothing in here is needed: :func:`install` puts its functions into the table of faster forms
(:mod:`ctrlib.models.operations`), and whatever trains for the store, the study or a user of :func:`train` calls it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctrlib.training.loop import Trained


def install() -> None:
    """Let models and trainings of this process use the faster forms from now on; a second call changes nothing."""
    from ctrlib.fast import batches, distinct_ids, graphs, kernels, machine, scores
    from ctrlib.models.operations import FASTER

    FASTER.update(
        batch_source=batches.NearBatches,
        take_rows=kernels.take_rows,
        dropout_mask=kernels.dropout_mask,
        second_order_fm=kernels.SecondOrderFM.apply,
        inner_products=kernels.inner_products,
        mlp_of_pairs=kernels.mlp_of_pairs,
        cross_and_deep=kernels.cross_and_deep,
        choose_forward=distinct_ids.choose_forward,
        choose_step=graphs.choose_step,
        side_by_side=graphs.side_by_side,
        training_arithmetic=machine.training_arithmetic,
        score=scores.score,
    )


def train(*arguments, **settings) -> "Trained":
    """:func:`ctrlib.training.loop.train`, with the same arguments, by the faster forms."""
    from ctrlib.training import loop

    install()
    return loop.train(*arguments, **settings)
