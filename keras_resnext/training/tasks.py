"""What is learned of images, as data: one class or several labels; what the model ends in, losses, and measures."""

from dataclasses import dataclass

LOSSES = ("cross_entropy", "bce", "focal")


@dataclass(frozen=True)
class Task:
    """How labels of one kind are learned.

    Attributes:
        kind: "single" or "multi", as `Listing` has it.
        activation: what the model ends in.
        losses: that fit; the first is the default.
        measures: name in history.csv to title of curves, of what is measured beside the loss. By the first the best
            epoch is chosen.
        says: what a run says of its data.
    """

    kind: str
    activation: str
    losses: tuple[str, ...]
    measures: dict[str, str]
    says: str

    @property
    def score(self) -> str:
        """Name of the measure by which the best epoch is chosen."""
        return next(iter(self.measures))

    def choose_loss(self, loss: str | None) -> str:
        """The loss of that name; default the kind's.

        Raises:
            ValueError: it does not fit.
        """
        if loss is not None and loss not in self.losses:
            raise ValueError(f"loss={loss!r} is for one class an image; several labels take {' or '.join(self.losses)}")
        return loss or self.losses[0]


TASKS = {
    "single": Task(
        "single", "softmax", LOSSES, {"top1": "top-1", "top5": "top-5"}, "one class an image (probabilities by softmax)"
    ),
    "multi": Task(
        "multi", "sigmoid", ("bce", "focal"), {"map": "mAP", "accuracy": "accuracy", "f1": "F1"},
        "any number of labels an image (a probability for each, by sigmoid)",
    ),
}  # fmt: skip
TITLES = {"loss": "loss", **TASKS["single"].measures, **TASKS["multi"].measures}
