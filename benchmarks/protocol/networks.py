"""Networks that results are of: trained once, kept by their weights."""

from __future__ import annotations

from collections.abc import Callable

import keras

from protocol import colour_networks
from protocol.pieces import Context
from xcertify.commands.networks import convolutional_net, dense_net, fit
from xcertify.datasets import Images

VALIDATION_SEED = 0
SEEDS = (1, 2, 3)  # of the networks that are reported

Training = Callable[[keras.Model], None]


def network(
    context: Context, name: str, build: Callable[[], keras.Model], train: Training
) -> keras.Model:
    """A network that is trained in place, unless its weights are kept already.

    Parameters
    ----------
    context
        Where weights are kept: `models`. Those of small runs have names of their own.
    name
        Of the file; it must tell all that the weights depend on, such as the seed.
    build, train
        What makes the network, and what trains it.
    """
    model = build()
    path = context.models / f"{name}{'-quick' if context.quick else ''}.weights.h5"
    if path.exists():
        model.load_weights(path)
        return model
    train(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    model.save_weights(part)
    part.replace(path)
    return model


def digits_network(context: Context, kind: str, seed: int, train: Images) -> keras.Model:
    """A network of digits, "dense" or "cnn", trained for six epochs (one in small runs)."""
    build = {"dense": dense_net, "cnn": convolutional_net}[kind]
    nb_epochs = 1 if context.quick else 6
    return network(
        context,
        f"mnist-{kind}_{seed}",
        lambda: build((28, 28, 1), 10, seed),
        lambda model: fit(model, *train, seed, nb_epochs),
    )


def colour_network(context: Context, seed: int, train: Images) -> keras.Model:
    """A CNN of CIFAR-10."""
    nb_epochs = 1 if context.quick else 60
    return network(
        context,
        f"cifar10-cnn_{seed}",
        lambda: colour_networks.build(seed),
        lambda model: colour_networks.train(model, train, seed, nb_epochs, context.progress),
    )
