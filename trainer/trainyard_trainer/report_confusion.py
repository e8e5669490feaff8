"""The confusion matrix as inline SVG: rows are true classes, columns predictions, shades shares of a row."""

from collections.abc import Sequence

from markupsafe import Markup

MAXIMUM_CLASSES = 12
"""Classes that are drawn one by one; further ones, the rarest, are drawn together."""

OTHERS = "all others"
MAXIMUM_LABEL_CHARACTERS = 14
LEFT, RIGHT, TOP, BOTTOM, SIDE = 112, 8, 8, 84, 320
DARK_SHADE = 0.55
"""Fraction of its row from which a cell is so dark that its number is drawn in the colour of the page."""

Matrix = Sequence[Sequence[int]]


def drawn_classes(names: Sequence[str], matrix: Matrix) -> tuple[list[str], list[list[int]]]:
    """The classes to draw, most frequent first, and their part of the matrix; the rarest become one.

    Args:
        names: label of each class.
        matrix: how often each class (row) was taken for each other (column).
    """
    sizes = [sum(row) + sum(other[number] for other in matrix) for number, row in enumerate(matrix)]
    occurring = [number for number in range(len(names)) if sizes[number]]
    if len(occurring) <= MAXIMUM_CLASSES:
        groups = [[number] for number in occurring]
    else:
        by_size = sorted(occurring, key=lambda number: -sum(matrix[number]))
        groups = [[number] for number in by_size[: MAXIMUM_CLASSES - 1]] + [by_size[MAXIMUM_CLASSES - 1 :]]
    shown = [names[group[0]] if len(group) == 1 else OTHERS for group in groups]
    sums = [[sum(matrix[i][j] for i in rows for j in columns) for columns in groups] for rows in groups]
    return shown, sums


def confusion_chart(names: Sequence[str], matrix: Matrix) -> Markup | None:
    """The picture, or None where no class occurs.

    Args:
        names: label of each class.
        matrix: how often each class (row) was taken for each other (column).
    """
    shown, sums = drawn_classes(names, matrix)
    if not shown:
        return None
    size = SIDE / len(shown)
    cells = [
        _cell(shown[row], shown[column], count, (LEFT + column * size, TOP + row * size, size), sum(counts))
        for row, counts in enumerate(sums)
        for column, count in enumerate(counts)
    ]
    titles = Markup('<text x="{}" y="{}" text-anchor="middle">predicted</text>').format(
        LEFT + SIDE / 2, TOP + SIDE + BOTTOM - 4
    ) + Markup('<text x="10" y="{0}" text-anchor="middle" transform="rotate(-90 10 {0})">true</text>').format(
        TOP + SIDE / 2
    )
    return Markup(
        '<svg class="confusion" viewBox="0 0 {} {}" role="img" aria-label="Confusion matrix">{}</svg>'
    ).format(LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM, Markup().join([*cells, *_labels(shown, size), titles]))


def short_count(count: int) -> str:
    """A count in at most four characters: 950, 7.1k, 30k, 1.2M; the title of its cell has it whole."""
    for unit, size in (("M", 999_500), ("k", 1000)):
        if count >= size:
            number = count / (1_000_000 if unit == "M" else 1000)
            return f"{number:.1f}{unit}" if number < 9.95 else f"{number:.0f}{unit}"
    return str(count)


def _cell(name: str, predicted: str, count: int, place: tuple[float, float, float], total: int) -> Markup:
    """One cell with its number; what it means is told where a pointer rests on it."""
    x, y, size = place
    share = count / total if total else 0.0
    rectangle = Markup(
        '<rect class="cell" x="{}" y="{}" width="{}" height="{}" fill-opacity="{}">'
        "<title>{} taken for {}: {} of {} ({} %)</title></rect>"
    ).format(
        round(x, 1),
        round(y, 1),
        round(size, 1),
        round(size, 1),
        round(share, 3),
        name,
        predicted,
        f"{count:,}",
        f"{total:,}",
        f"{100 * share:.1f}",
    )
    if not count:
        return rectangle
    number = Markup('<text class="{}" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        "dark" if share >= DARK_SHADE else "light",
        round(x + size / 2, 1),
        round(y + size / 2 + 4, 1),
        short_count(count),
    )
    return rectangle + number


def _labels(names: Sequence[str], size: float) -> list[Markup]:
    """The names beside the rows and, slanted, below the columns."""
    labels = []
    for number, name in enumerate(names):
        shown = name if len(name) <= MAXIMUM_LABEL_CHARACTERS else f"{name[: MAXIMUM_LABEL_CHARACTERS - 2]}.."
        middle = (number + 0.5) * size
        labels.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
                LEFT - 6, round(TOP + middle + 4, 1), shown
            )
        )
        x, y = round(LEFT + middle + 4, 1), TOP + SIDE + 12
        labels.append(
            Markup('<text x="{}" y="{}" text-anchor="end" transform="{}">{}</text>').format(
                x, y, f"rotate(-40 {x} {y})", shown
            )
        )
    return labels
