"""What coupling does, when, how strongly and for how long: the conditions of one replicate.

Each function is one notebook's experiment. Runs that several experiments ask for are trained once.
"""

from dataclasses import replace

from ctrlib.config import Recipe
from ctrlib.study.conditions import (
    Condition,
    Factor,
    Replicate,
    Runs,
    continued_training,
    finetuned,
    mutual_finetuning,
    without_peers,
)

RATES = {"lr": 1.0, "lr/10": 0.1, "lr/100": 0.01}  # of fine-tuning, as parts of the learning rate of the pretraining
RATE_WORDS = dict(zip(RATES, ("the initial rate", "a tenth of the rate", "a hundredth of the rate"), strict=True))
CONTROLS = ("checkpoint", "continued training", "continued training, Adam kept", "solo from scratch")
COUPLED = ("mutual", "mutual from scratch")  # and those without peers, to choose the best of either
PAPERS_OWN = ("mutual, one epoch", "continued training, one epoch")  # the paper's setting, and its control
BY_RULE = tuple(f"{one}, by rule" for one in ("mutual from scratch", "solo from scratch", "checkpoint"))  # of stopping


def rate_of(protocol: str) -> str:
    """The rate at which pages with one of :data:`RATES` fine-tune with peers: a tenth where checkpoints converged."""
    return "lr/10" if protocol == "early_stopping" else "lr"


def rates_of(protocol: str) -> list[str]:
    """Those of :data:`RATES` that are tried without peers: with fixed epochs the first two."""
    return list(RATES)[: 3 if protocol == "early_stopping" else 2]


def at_rate(r: Replicate, rate: str) -> Recipe:
    """Fine-tuning at one of :data:`RATES`."""
    return r.recipe(learning_rate=r.p.learning_rate * RATES[rate])


def without_peers_at_each_rate(r: Replicate, pretrained: Runs, **factors: Factor) -> list[Condition]:
    """The checkpoint, and continued training at each of :func:`rates_of`: what the best control is chosen from."""
    conditions = r.conditions({"checkpoint": pretrained}, **factors)
    for rate in rates_of(r.protocol):
        alone = {"continued training": continued_training(pretrained, at_rate(r, rate))}
        conditions += r.conditions(alone, **factors, rate=rate)
    return conditions


def with_peers(r: Replicate, pretrained: Runs, weight: float, **factors: Factor) -> list[Condition]:
    """Mutual fine-tuning at :func:`rate_of` and a total weight of the peers."""
    rate, coupling = rate_of(r.protocol), r.coupling(weight, len(pretrained))
    together = {"mutual": mutual_finetuning(pretrained, coupling, at_rate(r, rate))}
    return r.conditions(together, **factors, rate=rate, weight=weight)


def train_independent(r: Replicate) -> list[Condition]:
    """N models trained without peers."""
    return r.conditions({"independent": r.pretraining()})


def main_comparison(r: Replicate) -> list[Condition]:
    """What peers give beyond the best that needs none, for each architecture: as many ways to go on without peers
    (:data:`CONTROLS`) as with them (:data:`COUPLED`), where there are two weights."""
    return [one for architecture in r.p.architectures for one in beside_controls(r, architecture)]


def beside_controls(r: Replicate, architecture: str) -> list[Condition]:
    """:func:`main_comparison` of one architecture.

    Without: the checkpoint; continued training at each rate, with Adam's state reset or kept; a second training from
    scratch, on another order of the rows. With: fine-tuning at each rate and weight, and from scratch at each weight.
    The rates are those of :data:`RATES`, with fixed epochs the first two.

    An architecture of ``p.without_scratch`` or ``p.one_rate`` is trained under the last of the protocols, and not from
    scratch. The first leave out the kept state at the last rate, so that both sides stay of one number; the others have
    peers at a tenth of the rate alone and no kept state, and more candidates without peers than with them.
    """
    p, names, conditions = r.p, [architecture] * r.p.instances, []
    one_rate = architecture in p.one_rate
    if (tuned_only := one_rate or architecture in p.without_scratch) and r.protocol != p.protocols[-1]:
        return []
    rates = rates_of(r.protocol)
    kept = [] if one_rate else rates[:-1] if tuned_only else rates
    pretrained = r.pretraining(names)
    without = {"checkpoint": pretrained}
    if not tuned_only:
        without["solo from scratch"] = r.from_scratch(None, names)
    conditions += r.conditions(without, architecture=architecture)
    for rate in rates:
        train = at_rate(r, rate)
        alone = {"continued training": continued_training(pretrained, train)}
        if rate in kept:
            alone["continued training, Adam kept"] = continued_training(pretrained, train, "keep")
        conditions += r.conditions(alone, architecture=architecture, rate=rate)
        for weight in p.mutual_weights if rate == "lr/10" or not one_rate else ():
            found = {"mutual": mutual_finetuning(pretrained, r.coupling(weight), train)}
            conditions += r.conditions(found, architecture=architecture, rate=rate, weight=weight)
    for weight in () if tuned_only else p.mutual_weights:
        found = {"mutual from scratch": r.from_scratch(r.coupling(weight), names)}
        conditions += r.conditions(found, architecture=architecture, weight=weight)
    return conditions


def on_one_log(r: Replicate) -> list[Condition]:
    """The page of one data set: :func:`main_comparison`; for each architecture the paper's own setting, one epoch at
    weight 1 (:data:`PAPERS_OWN`); and the first architecture under each of ``p.stopping_rules``, from scratch with and
    without peers (:data:`BY_RULE`)."""
    conditions, one_epoch = main_comparison(r), replace(r, protocol="fixed_epochs").recipe(1)
    for architecture in dict.fromkeys(one.factors["architecture"] for one in conditions):
        pretrained = r.pretraining([architecture] * r.p.instances)
        mutual = mutual_finetuning(pretrained, r.coupling(1.0), one_epoch)
        own = zip(PAPERS_OWN, (mutual, continued_training(pretrained, one_epoch)), strict=True)
        conditions += r.conditions(dict(own), architecture=architecture)
    for rule in r.p.stopping_rules if r.protocol == "early_stopping" else ():
        architecture, at = r.p.architectures[0], r.varied(stopping=rule)
        names = [architecture] * r.p.instances
        mutual, *others = BY_RULE
        alone = dict(zip(others, (at.from_scratch(None, names), at.pretraining(names)), strict=True))
        conditions += r.conditions(alone, architecture=architecture, stopping=rule)
        for weight in r.p.mutual_weights:
            found = {mutual: at.from_scratch(r.coupling(weight), names)}
            conditions += r.conditions(found, architecture=architecture, stopping=rule, weight=weight)
    return conditions


def at_criteos_size(r: Replicate) -> list[Condition]:
    """The headline comparison at each weight of the peers, for each architecture."""
    conditions = []
    for architecture in r.p.architectures:
        pretrained = r.pretraining([architecture] * r.p.instances)
        conditions += r.conditions(without_peers(pretrained, r.recipe()), architecture=architecture)
        for weight in r.p.mutual_weights:
            found = {"mutual": mutual_finetuning(pretrained, r.coupling(weight), r.recipe())}
            conditions += r.conditions(found, architecture=architecture, weight=weight)
    return conditions


def from_a_raw_log(r: Replicate) -> list[Condition]:
    """One model of each architecture, then with and without peers: the whole way, once."""
    pretrained = r.pretraining(r.p.architectures)
    return r.conditions(finetuned(pretrained, r.coupling(size=len(pretrained)), r.recipe()))


def is_it_noise(r: Replicate) -> list[Condition]:
    """The comparison of the headline by itself, for many replicates, and the checkpoints before it."""
    return r.conditions(finetuned(r.pretraining(), r.coupling(), r.recipe()))


def how_many_epochs(r: Replicate) -> list[Condition]:
    """More epochs of fine-tuning, with and without peers, from checkpoints of either protocol; the fine-tuning itself
    has a fixed length under both. Factors: embedding L2, the recipe's first and then ``p.l2_levels``, and the rate of
    fine-tuning, :func:`rate_of` first and then ``p.rates``."""
    conditions = []
    for l2 in dict.fromkeys((r.p.embedding_l2, *r.p.l2_levels)):
        pretrained = r.varied(embedding_l2=l2).pretraining()
        conditions += r.conditions({"checkpoint": pretrained}, embedding_l2=l2, epochs=0)
        for rate in dict.fromkeys((rate_of(r.protocol), *r.p.rates)):
            at = r.varied(embedding_l2=l2, learning_rate=r.p.learning_rate * RATES[rate])
            conditions += lengths_of_finetuning(at, pretrained, embedding_l2=l2, rate=rate)[1:]
    return conditions


def lengths_of_finetuning(r: Replicate, pretrained: Runs, **factors: str | float) -> list[Condition]:
    """The checkpoint at 0 ``epochs``; continued training and mutual fine-tuning of each of ``p.epoch_counts``."""
    conditions = r.conditions({"checkpoint": pretrained}, **factors, epochs=0)
    for epochs in r.p.epoch_counts:
        found = finetuned(pretrained, r.coupling(), replace(r, protocol="fixed_epochs").recipe(epochs))
        conditions += r.conditions(found, **factors, epochs=epochs)[1:]  # the checkpoint stands there already
    return conditions
