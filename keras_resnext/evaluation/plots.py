"""Images of an evaluation: confusion matrix, reliability diagram, most confused classes, labels and numbers."""

from collections.abc import Sequence

import numpy as np

from ..figures import figure_bytes, new_figure, shorten
from .metrics import most_confused

PAIRS = 8
EXAMPLES = 6
NUMBERED, NAMED = 20, 40  # most classes for counts in the cells, and for names on the axes
RIGHT, WRONG, INK = "#2e7d32", "#c62828", "#37474f"
MARGIN = 0.15  # inches

Pair = tuple[str, str, int, list[tuple[np.ndarray, float]]]


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> bytes:
    """PNG of a confusion matrix (classes, classes): colour is the share of the true class, numbers are images.

    Classes that neither occur nor are predicted are left out.
    """
    from matplotlib import colormaps
    from matplotlib.colors import LinearSegmentedColormap

    shown = np.flatnonzero(confusion.sum(axis=0) + confusion.sum(axis=1))
    counts = confusion[np.ix_(shown, shown)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    n, names = len(shown), [_short(classes[i]) for i in shown.tolist()]
    side = float(np.clip(2.5 + 0.5 * n, 5.5, 12))
    figure = new_figure((side, side))
    axis = figure.subplots()
    # The square root shows rare confusions too, and any at all stands out from none.
    colours = LinearSegmentedColormap.from_list("", colormaps["Blues"](np.linspace(0.2, 1, 256)))
    some = np.ma.masked_equal(np.sqrt(shares), 0)
    image = axis.imshow(some, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(image, ax=axis, fraction=0.045, pad=0.03)
    steps = (0, 0.05, 0.25, 0.5, 1)
    bar.set_ticks([step**0.5 for step in steps], labels=[f"{step:.0%}" for step in steps])
    bar.set_label("share of the true class")
    right = int(counts.diagonal().sum())
    left_out = f"; {n} of {len(classes)} classes occur" if n < len(classes) else ""
    axis.set_title(f"{right} of {counts.sum()} right ({right / max(counts.sum(), 1):.1%}){left_out}", color=INK)
    axis.set(xlabel="predicted class", ylabel="true class")
    if n <= NAMED:
        size = float(np.clip(260 / n, 6, 10))
        flat = max(map(len, names)) * n <= 40
        axis.set_xticks(range(n), names, fontsize=size, parse_math=False, rotation=0 if flat else 90)
        axis.set_yticks(range(n), names, fontsize=size, parse_math=False)
    else:
        axis.set(xlabel="predicted class (number)", ylabel="true class (number)")
        ticks = np.arange(0, n, 10 ** int(np.log10(n / 3)))
        axis.set_xticks(ticks, shown[ticks])
        axis.set_yticks(ticks, shown[ticks])
    if n <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = shares[row, column] > 0.25
                axis.text(column, row, str(count), ha="center", va="center", color="white" if dark else INK,
                          fontsize=float(np.clip(150 / n, 7, 13)))  # fmt: skip
    return figure_bytes(figure, dpi=100 if n <= 100 else 200, margin=MARGIN)


def draw_largest_confusions(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, bytes]:
    """`confusion_largest.png` where a whole matrix cannot show names: the largest confusions, and their classes' part.

    Args:
        confusion: int (classes, classes).
        classes: names.

    Returns:
        The PNG by its file's name; nothing where all classes are named in the whole matrix, or none is confused.
    """
    pairs = most_confused(confusion, NUMBERED)
    if np.count_nonzero(confusion.sum(0) + confusion.sum(1)) <= NAMED or not pairs:
        return {}
    shown = list(dict.fromkeys(i for true, predicted, _ in pairs for i in (true, predicted)))[:NUMBERED]
    figure = new_figure((17, 8.5))
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    places, counts = np.arange(len(pairs)), [count for *_, count in pairs]
    shares = [count / max(int(confusion[true].sum()), 1) for true, _, count in pairs]
    left.barh(places, counts, color="#90caf9")
    left.set_yticks(
        places, [f"{_short(classes[t])} → {_short(classes[p])}" for t, p, _ in pairs], fontsize=9, parse_math=False
    )
    for place, count, share in zip(places, counts, shares, strict=True):
        left.text(count, place, f" {count}, {share:.0%}", va="center", fontsize=8, color=INK)
    left.set(ylim=(len(pairs) - 0.4, -0.6), xlim=(0, max(counts) * 1.2), xlabel="images")
    left.set_title("Largest confusions: images, and their share of the true class", color=INK, fontsize=11)
    left.spines[["top", "right"]].set_visible(False)
    part = confusion[np.ix_(shown, shown)]
    right.imshow(np.ma.masked_equal(part, 0) ** 0.5, cmap="Blues", vmin=0, interpolation="nearest")
    names = [_short(classes[i]) for i in shown]
    right.set_xticks(range(len(shown)), names, fontsize=9, parse_math=False, rotation=90)
    right.set_yticks(range(len(shown)), names, fontsize=9, parse_math=False)
    for (row, column), count in np.ndenumerate(part):
        if count:
            dark = count > 0.3 * part.max()
            right.text(column, row, str(count), ha="center", va="center", fontsize=8, color="white" if dark else INK)
    right.set(xlabel="predicted class", ylabel="true class")
    right.set_title(f"{len(shown)} of {len(classes)} classes, images of each pair", color=INK, fontsize=11)
    return {"confusion_largest.png": figure_bytes(figure, margin=MARGIN)}


def draw_calibration(bins: np.ndarray) -> bytes:
    """PNG of a reliability diagram from `metrics.calibration_bins`: accuracy by confidence, and how many there are."""
    from .metrics import calibration_error

    count, confidence, accuracy = bins.T
    centres, width = (np.arange(len(bins)) + 0.5) / len(bins), 1 / len(bins)
    some = count > 0
    figure = new_figure((6.5, 7))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(centres[some], accuracy[some], width * 0.92, color="#90caf9", label="accuracy")
    upper.bar(
        centres[some], (confidence - accuracy)[some], width * 0.92, accuracy[some], color="none",
        edgecolor=WRONG, hatch="//", linewidth=0.8, label="gap to the confidence",
    )  # fmt: skip
    upper.plot([0, 1], [0, 1], "--", color=INK, linewidth=1, label="perfectly calibrated")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.legend(loc="upper left", frameon=False)
    n = int(count.sum())
    upper.set_title(f"Expected calibration error {calibration_error(bins):.2%} on {n} images", color=INK)
    lower.bar(centres, count / n, width * 0.92, color="#90a4ae")
    lower.set(xlabel="confidence", ylabel="share of images")
    for axis in (upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
    return figure_bytes(figure, margin=MARGIN)


def draw_confused_pairs(pairs: Sequence[Pair]) -> bytes:
    """PNG with one row a pair of classes.

    Args:
        pairs: (true class, predicted class, how many, [(uint8 image (height, width, 3), confidence), …]) each.
    """
    rows = max(len(pairs), 1)
    figure = new_figure((11, 0.7 + 1.45 * rows))
    figure.suptitle(
        "Most confused classes, their surest mistakes with the model's confidence" if pairs else "No mistakes",
        fontsize=13, color=INK,
    )  # fmt: skip
    grid = figure.subplots(rows, EXAMPLES + 1, squeeze=False, width_ratios=(1.7, *[1] * EXAMPLES))
    for axis in grid.flat:
        axis.axis("off")
    for axes, (true, predicted, count, examples) in zip(grid, pairs, strict=False):
        axes[0].set(xlim=(0, 1), ylim=(0, 1))
        for y, text, colour, size in (
            (0.78, _short(true), RIGHT, 12),
            (0.48, f"→ {_short(predicted)}", WRONG, 12),
            (0.16, f"{count} image{'s' * (count != 1)}", INK, 10),
        ):
            axes[0].text(0, y, text, color=colour, fontsize=size, va="center", parse_math=False)
        for axis, (image, confidence) in zip(axes[1:], examples, strict=False):
            axis.imshow(image, interpolation="nearest" if max(image.shape) < 100 else "antialiased")
            axis.set_title(f"{confidence:.0%}", fontsize=10, color=INK, pad=3)
    return figure_bytes(figure, margin=MARGIN)


def draw_labels(average_precision: np.ndarray, f1: np.ndarray, labels: Sequence[str], threshold: float) -> bytes:
    """PNG of average precision and F1 (labels,) of each label that occurs, best first; of many, the ends."""
    order = [i for i in np.argsort(-average_precision, kind="stable").tolist() if not np.isnan(average_precision[i])]
    half = NAMED // 2
    shown = order if len(order) <= NAMED else order[:half] + order[-half:]
    figure = new_figure((8, 1.6 + 0.3 * max(len(shown), 4)))
    axis = figure.subplots()
    places = np.arange(len(shown))
    for offset, values, name, colour in (
        (-0.2, average_precision, "average precision", "#90caf9"),
        (0.2, f1, f"F1 at {threshold:g}", "#3949ab"),
    ):
        axis.barh(places + offset, values[shown], 0.38, label=name, color=colour)
    axis.set_yticks(places, [_short(labels[i]) for i in shown], fontsize=9, parse_math=False)
    axis.set(xlim=(0, 1), ylim=(len(shown) - 0.4, -0.6))
    left_out = f"; {len(shown)} of {len(labels)} are shown" if len(shown) < len(labels) else ""
    mean = f"{average_precision[order].mean():.1%}" if order else "unknown"
    axis.set_title(f"Mean average precision {mean}, a probability for each label{left_out}", color=INK, fontsize=11)
    axis.legend(loc="lower left", bbox_to_anchor=(0, -0.35), frameon=False, ncols=2)
    axis.spines[["top", "right"]].set_visible(False)
    return figure_bytes(figure, margin=MARGIN)


def draw_numbers(truths: np.ndarray, numbers: np.ndarray, names: Sequence[str], mae: float) -> bytes:
    """PNG of the numbers that a model gives by the true ones, (n, numbers) each; a panel for each of the first few."""
    count = min(len(names), EXAMPLES)
    figure = new_figure((5 * count, 5.2))
    figure.suptitle(f"Mean absolute error {mae:.4g} on {len(truths)} images", fontsize=13, color=INK)
    for i, axis in enumerate(figure.subplots(1, count, squeeze=False)[0]):
        ends = [min(truths[:, i].min(), numbers[:, i].min()), max(truths[:, i].max(), numbers[:, i].max())]
        axis.plot(ends, ends, "--", color=INK, linewidth=1)
        axis.scatter(truths[:, i], numbers[:, i], s=12, color="#3949ab", alpha=0.6)
        axis.set_title(_short(names[i]), parse_math=False, fontsize=11, color=INK)
        axis.set(xlabel="true", ylabel="from the model")
        axis.spines[["top", "right"]].set_visible(False)
    return figure_bytes(figure, margin=MARGIN)


def _short(name: str, most: int = 22) -> str:
    return shorten(name, most)
