"""What coupling does, when, how strongly and for how long: the arms of one group (seed) under one protocol.

Each function is one notebook's experiment. Runs that several experiments ask for are trained once.
"""

from ctrlib.config import Protocol, Run
from ctrlib.coupling import complete
from ctrlib.study.arms import (
    Arm,
    continuation,
    from_scratch,
    group_coupling,
    instances,
    mutual_finetuning,
    pretraining,
    recipe,
)
from ctrlib.study.parameters import StudyParameters

RATES = {"lr": 1.0, "lr/10": 0.1}  # fine-tuning at the learning rate of the pretraining, and at a tenth of it
HEADLINE = ("mutual lr state reset", "solo lr state reset")  # the comparison that was fixed before any run


def arm_name(kind: str, rate: str, optimizer: str) -> str:
    """``solo`` or ``mutual``; ``lr`` or ``lr/10``; ``reset`` or ``keep``."""
    return f"{kind} {rate} {'state kept' if optimizer == 'keep' else 'state reset'}"


def finetuning_arms(p: StudyParameters, pretrained: list[Run], protocol: Protocol) -> dict[str, list[Run]]:
    """Every way to fine-tune one group: alone or together, at the same or a tenth of the learning rate, with
    Adam's state kept or reset. Names are built by :func:`arm_name`."""
    coupling = group_coupling(p, len(pretrained))
    arms: dict[str, list[Run]] = {}
    for rate, factor in RATES.items():
        train = recipe(p, protocol, p.finetune_epochs, p.learning_rate * factor)
        for optimizer in ("reset", "keep"):
            arms[arm_name("solo", rate, optimizer)] = continuation(pretrained, train, optimizer)
            arms[arm_name("mutual", rate, optimizer)] = mutual_finetuning(pretrained, coupling, train, optimizer)
    return arms


def train_independent(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """N models trained alone."""
    runs = pretraining(p, seed, protocol, instances(p))
    return [Arm("independent", seed, tuple(runs), {"protocol": protocol})]


def finetune_mutually(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Claims 1 and 2: each architecture from checkpoints and from scratch, alone and together, with every control."""
    arms = []
    for architecture in p.architectures:
        names = [architecture] * p.instances
        pretrained = pretraining(p, seed, protocol, names)
        found = {
            "checkpoint": pretrained,
            **finetuning_arms(p, pretrained, protocol),
            "solo from scratch": from_scratch(p, seed, protocol, names, None),
            "mutual from scratch": from_scratch(p, seed, protocol, names, group_coupling(p, p.instances)),
            "solo from scratch, own orders": pretraining(p, seed, protocol, names, p.epochs + p.finetune_epochs),
        }
        factors = {"protocol": protocol, "architecture": architecture}
        arms += [Arm(name, seed, tuple(runs), factors) for name, runs in found.items()]
    return arms


def at_criteos_size(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """The headline comparison at each weight of the peers, for each architecture."""
    arms = []
    for architecture in p.architectures:
        names, factors = [architecture] * p.instances, {"protocol": protocol, "architecture": architecture}
        pretrained = pretraining(p, seed, protocol, names)
        train = recipe(p, protocol, p.finetune_epochs)
        arms += [
            Arm("checkpoint", seed, tuple(pretrained), factors),
            Arm("solo", seed, tuple(continuation(pretrained, train)), factors),
        ]
        for weight in p.mutual_weights:
            coupling = group_coupling(p, p.instances, complete(p.instances, weight))
            together = mutual_finetuning(pretrained, coupling, train)
            arms.append(Arm("mutual", seed, tuple(together), {**factors, "weight": weight}))
    return arms


def from_a_raw_log(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """One model of each architecture, then alone and together, on each data set: the whole way, once."""
    arms = []
    for dataset in p.datasets:
        at = p.model_copy(update={"dataset": dataset})
        pretrained = pretraining(at, seed, protocol, at.architectures)
        train = recipe(at, protocol, at.finetune_epochs)
        found = {
            "checkpoint": pretrained,
            "solo": continuation(pretrained, train),
            "mutual": mutual_finetuning(pretrained, group_coupling(at, len(at.architectures)), train),
        }
        factors = {"protocol": protocol, "dataset": dataset}
        arms += [Arm(name, seed, tuple(runs), factors) for name, runs in found.items()]
    return arms


def is_it_noise(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """The comparison of the headline alone, for many groups, and the checkpoints before it."""
    pretrained = pretraining(p, seed, protocol, instances(p))
    train = recipe(p, protocol, p.finetune_epochs)
    found = {
        "checkpoint": pretrained,
        "solo": continuation(pretrained, train),
        "mutual": mutual_finetuning(pretrained, group_coupling(p, p.instances), train),
    }
    return [Arm(name, seed, tuple(runs), {"protocol": protocol}) for name, runs in found.items()]


def how_many_epochs(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Claim 5: 1, 2, ... epochs of fine-tuning, alone and together, from checkpoints of either protocol, with
    embedding L2 as a factor. The fine-tuning itself has a fixed length under both protocols."""
    arms = []
    for l2 in p.l2_levels:
        at = p.model_copy(update={"embedding_l2": l2})
        pretrained = pretraining(at, seed, protocol, instances(at))
        factors = {"protocol": protocol, "embedding_l2": l2}
        arms.append(Arm("checkpoint", seed, tuple(pretrained), {**factors, "epochs": 0}))
        for epochs in p.epoch_counts:
            train = recipe(at, "equal_epochs", epochs)
            solo = continuation(pretrained, train)
            mutual = mutual_finetuning(pretrained, group_coupling(at, p.instances), train)
            arms.append(Arm("solo", seed, tuple(solo), {**factors, "epochs": epochs}))
            arms.append(Arm("mutual", seed, tuple(mutual), {**factors, "epochs": epochs}))
    return arms


def how_strong_and_in_which_form(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """The weight of the peers by form of the distance, fine-tuned and from scratch; and the targets at each weight."""
    names, factors = instances(p), {"protocol": protocol}
    pretrained = pretraining(p, seed, protocol, names)
    train = recipe(p, protocol, p.finetune_epochs)
    arms = [
        Arm("checkpoint", seed, tuple(pretrained), factors),
        Arm("solo", seed, tuple(continuation(pretrained, train)), factors),
        Arm("solo from scratch", seed, tuple(from_scratch(p, seed, protocol, names, None)), factors),
    ]
    for weight in p.mutual_weights:
        matrix = complete(p.instances, weight)
        for form in p.forms:
            coupling = group_coupling(p, p.instances, matrix, form=form)
            varied = {**factors, "weight": weight, "form": form, "target": "live"}
            arms.append(Arm("mutual", seed, tuple(mutual_finetuning(pretrained, coupling, train)), varied))
        coupling = group_coupling(p, p.instances, matrix)
        scratch = from_scratch(p, seed, protocol, names, coupling)
        varied = {**factors, "weight": weight, "form": coupling.form, "target": "live"}
        arms.append(Arm("mutual from scratch", seed, tuple(scratch), varied))
        for target in p.targets:
            if target != "live":
                coupling = group_coupling(p, p.instances, matrix, target=target)
                varied = {**factors, "weight": weight, "form": coupling.form, "target": target}
                arms.append(Arm("mutual", seed, tuple(mutual_finetuning(pretrained, coupling, train)), varied))
    return arms


def when_to_couple(p: StudyParameters, seed: int, protocol: Protocol) -> list[Arm]:
    """Open question 2: the coupling is on after a share of the fixed total of epochs, from 0 (from scratch, as Deep
    Mutual Learning) over a burn-in (as codistillation) to 1; under ``own_end`` after the same number of epochs."""
    names, factors = instances(p), {"protocol": protocol}
    total = p.epochs + p.finetune_epochs
    longest = recipe(p, protocol, total).epochs
    arms = [Arm("solo", seed, tuple(from_scratch(p, seed, protocol, names, None)), factors)]
    for weight in p.mutual_weights:
        for share in p.starts:
            start = min(1.0, share * total / longest)
            coupling = group_coupling(p, p.instances, complete(p.instances, weight), start=start)
            runs = from_scratch(p, seed, protocol, names, coupling)
            arms.append(Arm("mutual", seed, tuple(runs), {**factors, "weight": weight, "share": share}))
    return arms
