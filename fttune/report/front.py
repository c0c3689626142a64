"""Which of several points are beaten by none: cheaper or better than every other one."""

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points (cost, loss) that no other one beats in both, by rising cost.

    Less is better in both; of equal points the first one counts.
    """
    found: list[int] = []
    for position in sorted(range(len(points)), key=lambda index: points[index]):
        if not found or points[position][1] < points[found[-1]][1]:
            found.append(position)
    return found
