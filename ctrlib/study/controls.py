"""What else could explain a gain, what else could be had for the price, and where the effect ends: the arms of one
group (seed) under one protocol."""

from itertools import product

from ctrlib.config import Protocol, Recipe, Run, StoredMember
from ctrlib.coupling import complete
from ctrlib.study.arms import (
    Arm,
    continuation,
    from_scratch,
    group_coupling,
    instances,
    member,
    mutual_finetuning,
    pretraining,
    recipe,
)
from ctrlib.study.parameters import StudyParameters


def alternatives_at_equal_cost(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Rivals of mutual fine-tuning that have no peers, or peers that do not learn.

    ``self-distillation``: each checkpoint is pulled to its own frozen copy. ``frozen ensemble``: to the frozen mean of
    the group. ``offline distillation``: new models learn from scratch from clicks and that mean. ``averaged weights``:
    continuation, of which the exponential average of the weights counts. ``wider``: one model of twice the width and
    embedding, from scratch for as many epochs.
    """
    names, size, weight = instances(p), p.instances, p.mutual_weight
    pretrained = pretraining(p, seed, protocol, names)
    train = recipe(p, protocol, p.finetune_epochs)
    averaged = train.model_copy(update={"averaging": "ema", "averaging_decay": p.averaging_decay})
    wide = p.model_copy(
        update={
            "embedding_dim": 2 * p.embedding_dim,
            "hidden_units": tuple(2 * width for width in p.hidden_units),
        }
    )
    found = {
        "checkpoint": pretrained,
        "solo": continuation(pretrained, train),
        "mutual": mutual_finetuning(pretrained, group_coupling(p, size), train),
        "self-distillation": self_distillation(p, pretrained, train, weight),
        "frozen ensemble": mutual_finetuning(
            pretrained,
            group_coupling(p, size, ((weight / size,) * size,) * size, target="frozen_ensemble"),
            train,
        ),
        "averaged weights": continuation(pretrained, averaged),
        "solo from scratch": from_scratch(p, seed, protocol, names, None),
        "mutual from scratch": from_scratch(p, seed, protocol, names, group_coupling(p, size)),
        "offline distillation": offline_distillation(p, seed, protocol, pretrained),
        "wider": from_scratch(wide, seed, protocol, names, None),
    }
    return [Arm(name, seed, tuple(runs), {"protocol": protocol}) for name, runs in found.items()]


def self_distillation(p: StudyParameters, pretrained: list[Run], train: Recipe, weight: float) -> list[Run]:
    """Each checkpoint trains on alone, pulled to its own frozen copy with the total weight of the peers."""
    coupling = group_coupling(p, 1, ((weight,),), target="frozen")
    return [run for one in pretrained for run in mutual_finetuning([one], coupling, train)]


def offline_distillation(p: StudyParameters, seed: int, protocol: Protocol, teachers: list[Run]) -> list[Run]:
    """New models, each alone, learn from scratch from the clicks and from the mean of the frozen ``teachers``."""
    size = len(teachers)
    coupling = group_coupling(p, size, ((p.mutual_weight / size,) * size,), target="frozen_ensemble")
    heard = tuple(StoredMember(run=run.fingerprint) for run in teachers)
    return [
        Run(
            data=teachers[0].data,
            members=(member(p, seed, slot, one.members[0].architecture, shared_order=True),),
            coupling=coupling,
            recipe=recipe(p, protocol, p.epochs + p.finetune_epochs),
            teachers=heard,
        )
        for slot, one in enumerate(teachers)
    ]


def where_it_ends(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Open question 4: rows of data, width of the model and noise of the clicks, in every combination, on the
    synthetic data, whose reachable AUC is known."""
    arms = []
    for rows, width, noise in product(p.row_levels, p.width_levels, p.noise_levels):
        at = p.model_copy(update={"rows": rows, "hidden_units": (width,) * len(p.hidden_units), "logit_sd": noise})
        names, coupling = instances(at), group_coupling(at, at.instances)
        pretrained = pretraining(at, seed, protocol, names)
        train = recipe(at, protocol, at.finetune_epochs)
        found = {
            "checkpoint": pretrained,
            "solo": continuation(pretrained, train),
            "mutual": mutual_finetuning(pretrained, coupling, train),
            "solo from scratch": from_scratch(at, seed, protocol, names, None),
            "mutual from scratch": from_scratch(at, seed, protocol, names, coupling),
        }
        factors = {"protocol": protocol, "rows": rows, "width": width, "logit_sd": noise}
        arms += [Arm(name, seed, tuple(runs), factors) for name, runs in found.items()]
    return arms


def real_clicks(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """The study in small, for a prepared data set: fine-tuned and from scratch at every weight of the peers, for each
    architecture; for ``p.architecture`` also at a tenth of the learning rate, with later starts of the coupling, with
    frozen peers, shuffled ones and the own frozen copy, and in groups of other sizes; and one member of each
    architecture together.

    The factor ``cohort`` names who is in the group, ``instances`` how many.
    """
    weights = p.mutual_weights
    rates = {"": p.learning_rate, " lr/10": p.learning_rate / 10}
    total = p.epochs + p.finetune_epochs
    longest = recipe(p, protocol, total).epochs
    arms: list[Arm] = []

    def finetuned(pretrained: list[Run], cohort: str, rate: str = "") -> None:
        size, train = len(pretrained), recipe(p, protocol, p.finetune_epochs, rates[rate])
        factors = {"protocol": protocol, "cohort": cohort, "instances": size}
        arms.append(Arm(f"solo{rate}", seed, tuple(continuation(pretrained, train)), factors))
        for weight in weights:
            runs = mutual_finetuning(pretrained, group_coupling(p, size, complete(size, weight)), train)
            arms.append(Arm(f"mutual{rate}", seed, tuple(runs), {**factors, "weight": weight}))

    def controls(pretrained: list[Run]) -> None:
        size, train = len(pretrained), recipe(p, protocol, p.finetune_epochs)
        for weight in weights:
            frozen, shuffled = (
                group_coupling(p, size, complete(size, weight), target=target) for target in ("frozen", "shuffled")
            )
            found = {
                "frozen peers": mutual_finetuning(pretrained, frozen, train),
                "shuffled peers": mutual_finetuning(pretrained, shuffled, train),
                "self-distillation": self_distillation(p, pretrained, train, weight),
                "shuffled peers from scratch": from_scratch(p, seed, protocol, [p.architecture] * size, shuffled),
            }
            factors = {"protocol": protocol, "cohort": p.architecture, "instances": size, "weight": weight}
            arms.extend(Arm(name, seed, tuple(runs), factors) for name, runs in found.items())

    def scratch(architecture: str, starts: tuple[float, ...]) -> None:
        names = [architecture] * p.instances
        factors = {"protocol": protocol, "cohort": architecture, "instances": p.instances}
        alone_runs = from_scratch(p, seed, protocol, names, None)
        arms.append(Arm("solo from scratch", seed, tuple(alone_runs), factors))
        for weight, share in product(weights, starts):
            start = min(1.0, share * total / longest)
            late = group_coupling(p, p.instances, complete(p.instances, weight), start=start)
            runs = from_scratch(p, seed, protocol, names, late)
            arms.append(Arm("mutual from scratch", seed, tuple(runs), {**factors, "weight": weight, "share": share}))

    checkpoints = {}
    for architecture in dict.fromkeys([p.architecture, *p.architectures]):
        pretrained = checkpoints[architecture] = pretraining(p, seed, protocol, [architecture] * p.instances)
        factors = {"protocol": protocol, "cohort": architecture, "instances": p.instances}
        arms.append(Arm("checkpoint", seed, tuple(pretrained), factors))
        finetuned(pretrained, architecture)
        scratch(architecture, p.starts if architecture == p.architecture else p.starts[:1])
    finetuned(checkpoints[p.architecture], p.architecture, " lr/10")
    controls(checkpoints[p.architecture])
    largest = pretraining(p, seed, protocol, [p.architecture] * max(p.sizes))
    if len(largest) > p.instances:  # its last members are in no group above
        factors = {"protocol": protocol, "cohort": p.architecture, "instances": len(largest)}
        arms.append(Arm("checkpoint", seed, tuple(largest), factors))
    for size in p.sizes:
        if size != p.instances:
            finetuned(largest[:size], p.architecture)
    together = [checkpoints[name][n] for n, name in enumerate(p.architectures[: p.instances])]
    if len(together) > 1:  # each is a member that the group of its own kind has trained
        finetuned(together, " + ".join(p.architectures[: p.instances]))
    return arms
