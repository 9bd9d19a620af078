"""Networks by name, from the folders of their families."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor

from .card import Card
from .catalogue import MODELS
from .model import Model


class Family(Protocol):
    """What ``network.py`` of a family provides."""

    def build(self, card: Card, joints: int, classes: int) -> Model:
        """Creates the network of a card with torch's initialisation."""

    def count_outputs(self, state: Mapping[str, Tensor]) -> dict[str, int] | None:
        """Returns the numbers of ``joints`` and ``classes`` in a state dict; None when it is of another family."""


def family_of(card: Card) -> Family:
    """Imports the network module of a card's family."""
    return cast(Family, importlib.import_module(f".{card.family}.network", __package__))


def make(name: str, joints: int | None = None, classes: int | None = None) -> Model:
    """Creates the network called ``name`` with torch's initialisation.

    Args:
        name: name of the model.
        joints: number of joints of a pose model; None takes that of the published network.
        classes: number of classes; None takes that of the published network.
    """
    card = MODELS[name]
    counts = {"joints": joints or card.counts.get("joints", 0), "classes": classes or card.counts.get("classes", 0)}
    return family_of(card).build(card, **counts)


def count_outputs(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Returns the numbers of ``joints`` and ``classes`` in a state dict; None when it is of no supported family."""
    for card in {card.family: card for card in MODELS.values()}.values():
        counts = family_of(card).count_outputs(state)
        if counts is not None:
            return counts
    return None
