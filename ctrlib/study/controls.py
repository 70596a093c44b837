"""What else could explain a gain, and what else could be had for the price: the conditions of one replicate."""

from dataclasses import replace
from itertools import product

from ctrlib.config import Recipe, Run, StoredMember
from ctrlib.study.conditions import (
    Condition,
    Replicate,
    Runs,
    changed,
    continued_training,
    mutual_finetuning,
)
from ctrlib.study.finetuning import at_rate, main_comparison

RIVALS = {  # of the peers: what each changes in continued training
    "embedding L2 tenfold": lambda recipe: {"embedding_l2": tenfold(recipe.embedding_l2)},
    "gradient penalty": lambda recipe: {"gradient_penalty": 0.3},
    "label smoothing": lambda recipe: {"label_smoothing": 0.1},
}
RDROP, RDROP_DROPOUT = 1.0, 0.2  # its weight, and the dropout of its models where the others have none
SETTINGS = ((1.0, False), (1 / 3, False), (1.0, True), (1 / 3, True))  # part of the rate, whether embedding L2 tenfold
WIDTHS = (2, 4)


def rivals(r: Replicate) -> list[Condition]:
    """Mutual fine-tuning beside what could do the same without peers, named in ``p.rivals``, from the same checkpoints
    and at each of ``p.rates``.

    :data:`RIVALS`, averaged weights and R-Drop are continued training with one change; the checkpoints of R-Drop have
    dropout even where the others have none, and controls of their own. The self-anchor and the pull to the base rate
    stand at each weight of the peers. The rate cut is continued training below the initial rate.

    MEDA goes on at the initial rate alone: its tables are drawn afresh before each epoch, and have one epoch to learn
    in. That is as much as they need where one epoch trains an embedding; with fixed epochs it is then MEDA's second
    epoch, while tables that need several are compared when they have had but one.
    """
    p, pretrained, drop = r.p, r.pretraining(), r.p.dropout or RDROP_DROPOUT
    noisy, afresh = r.varied(dropout=drop).pretraining(), r.recipe().model_copy(update={"meda": True})
    conditions = r.conditions({"checkpoint": pretrained, "checkpoint, dropout": noisy})
    conditions += r.conditions({"MEDA": continued_training(pretrained, afresh)}, rate="lr")
    for rate in p.rates:
        train = at_rate(r, rate)
        changed = {name: train.model_copy(update=change(train)) for name, change in RIVALS.items()}
        found = {
            "continued training": continued_training(pretrained, train),
            **{name: continued_training(pretrained, recipe) for name, recipe in changed.items()},
            "averaged weights": averaged_weights(r, pretrained, train),
            "continued training, dropout": continued_training(noisy, train),
            "R-Drop": continued_training(noisy, train.model_copy(update={"rdrop": RDROP})),
        }
        if rate != "lr":
            found["rate cut"] = found["continued training"]
        conditions += r.conditions(found, rate=rate)
        for weight in p.mutual_weights:
            pulled = train.model_copy(update={"base_rate_weight": weight})
            found = {
                "mutual": mutual_finetuning(pretrained, r.coupling(weight), train),
                "self-anchor": self_anchor(r, pretrained, weight, train),
                "base rate": continued_training(pretrained, pulled),
            }
            conditions += r.conditions(found, rate=rate, weight=weight)
    own = ("checkpoint, dropout", "continued training, dropout") if "R-Drop" in p.rivals else ()
    wanted = {"checkpoint", "continued training", "mutual", *p.rivals, *own}
    return [one for one in conditions if one.name in wanted]


def serving_frontier(r: Replicate) -> list[Condition]:
    """What could be served: one model, of which ``max(p.sizes)`` are trained to be averaged; one of twice or four times
    the width and embedding; TabM with each of ``p.submodels``; one distilled from the average of all: each from scratch
    under the first ``p.settings`` of :data:`SETTINGS`. And a member of ``p.instances`` that were fine-tuned together,
    under as many rates and weights.

    What starts or learns from other models takes those of the first setting, and with fixed epochs trains
    ``p.finetune_epochs`` more. The factor ``setting`` names the setting.
    """
    p, conditions = r.p, []
    checkpoints = r.pretraining([p.architecture] * max(p.instances, *p.sizes))
    for part, strong in SETTINGS[: p.settings]:
        l2 = tenfold(p.embedding_l2) if strong else p.embedding_l2
        at = r.varied(learning_rate=p.learning_rate * part, embedding_l2=l2)
        tabm = at.pretraining(["TabM-DeepFM"])
        found = {
            "one model": at.pretraining([p.architecture] * max(p.sizes)),
            **{f"width x{times}": wider(at, times).pretraining([p.architecture]) for times in WIDTHS},
            **{f"TabM {size}": changed(tabm, {"options": {"num_submodels": size}}) for size in p.submodels},
            "distilled": offline_distillation(at, checkpoints[: max(p.sizes)], p.mutual_weight, students=1),
        }
        conditions += r.conditions(found, setting=f"rate x{part:.2g}{', L2 x10' if strong else ''}")
    for rate, weight in list(product(("lr/10", "lr"), p.mutual_weights))[: p.settings]:
        train = at_rate(r, rate)
        found = {"mutual": mutual_finetuning(checkpoints[: p.instances], r.coupling(weight), train)}
        conditions += r.conditions(found, setting=f"{rate}, weight {weight:g}")
    return conditions


def tenfold(embedding_l2: float) -> float:
    """Ten times the penalty, or a first one where there is none."""
    return 10 * embedding_l2 or 1e-5


def wider(r: Replicate, times: int) -> Replicate:
    """The same with models of that many times the embedding and the width of each hidden layer."""
    p = r.p
    return r.varied(embedding_dim=times * p.embedding_dim, hidden_units=tuple(times * one for one in p.hidden_units))


def self_anchor(r: Replicate, pretrained: Runs, weight: float, train: Recipe | None = None) -> Runs:
    """Each checkpoint trains on towards its own frozen copy, with the total weight of the peers."""
    coupling = r.coupling(((weight,),), target="frozen")
    return [run for one in pretrained for run in mutual_finetuning([one], coupling, train or r.recipe())]


def averaged_weights(r: Replicate, pretrained: Runs, train: Recipe | None = None) -> Runs:
    """Continued training, of which the exponential moving average of the weights counts."""
    averaged = {"averaging": "ema", "averaging_decay": r.p.averaging_decay}
    return changed(continued_training(pretrained, train or r.recipe()), **averaged)


def offline_distillation(r: Replicate, teachers: Runs, weight: float, students: int | None = None) -> Runs:
    """New models, each by itself, learn from scratch from the clicks and, with the total ``weight``, from the mean of
    the frozen ``teachers``; as many as these unless ``students`` says how many."""
    row = (weight / len(teachers),) * len(teachers)
    coupling = r.coupling((row,), target="frozen_ensemble")
    return [
        Run(
            data=r.data,
            members=(r.member(slot, one.members[0].architecture, shared_order=True),),
            coupling=coupling,
            recipe=r.recipe(r.p.epochs + r.p.finetune_epochs),
            teachers=tuple(StoredMember(run=run.fingerprint) for run in teachers),
        )
        for slot, one in enumerate(teachers[:students])
    ]


def your_log(r: Replicate) -> list[Condition]:
    """What pays on a log: :func:`main_comparison`, and what else could be had, for each architecture: averaged weights
    and, at each weight, distillation from the checkpoints' ensemble; and one FM to be better than."""
    conditions = main_comparison(r)
    for architecture in r.p.architectures:
        pretrained = r.pretraining([architecture] * r.p.instances)
        found = {"averaged weights": averaged_weights(r, pretrained), "FM": r.pretraining(["FM"])}
        conditions += r.conditions(found, architecture=architecture)
        for weight in r.p.mutual_weights:
            found = {"distilled": offline_distillation(r, pretrained, weight)}
            conditions += r.conditions(found, architecture=architecture, weight=weight)
    return conditions


def drift(r: Replicate) -> list[Condition]:
    """:func:`main_comparison` of ``p.architecture`` under each of ``p.splits`` of one synthetic log, whose law moves by
    ``p.drift`` and ``p.new_codes``: the same rows, divided at random or by time. The factor is ``split``."""
    return [
        replace(one, factors={**one.factors, "split": split})
        for split in r.p.splits
        for one in main_comparison(r.varied(split=split, architectures=(r.p.architecture,)))
    ]
