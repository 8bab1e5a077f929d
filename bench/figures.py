"""figures: medians, spreads, ratios and the tables they are printed in.

A series is a list with one value a round; None stands for a round without
one.  A ratio is taken inside a round, between values measured a moment apart,
and the median of those is the figure: a slow minute of the machine then
touches both sides of it.
"""

import math


def known(xs):
    return [x for x in xs if x is not None]


def median(xs):
    xs = sorted(known(xs))
    if not xs:
        return None
    mid = len(xs) // 2
    return xs[mid] if len(xs) % 2 else (xs[mid - 1] + xs[mid]) / 2


def percentile(xs, p):
    """The smallest value that at least p percent of xs do not exceed."""
    xs = sorted(xs)
    if not xs:
        return None
    return xs[max(0, math.ceil(len(xs) * p / 100) - 1)]


def ratios(xs, ys):
    """x / y of each round that has both."""
    return [x / y for x, y in zip(xs, ys) if x is not None and y]


def number(x, digits=0):
    return f"{x:,.{digits}f}".replace(",", " ")


def spread(xs, digits=0):
    """Median, and minimum..maximum where there was more than one round."""
    xs = known(xs)
    if not xs:
        return "n/a"
    text = number(median(xs), digits)
    if len(xs) > 1:
        text += f" ({number(min(xs), digits)}..{number(max(xs), digits)})"
    return text


def ratio(xs, ys):
    rs = ratios(xs, ys)
    return f"{median(rs):.2f}" if rs else "n/a"


def table(head, rows):
    """Markdown with padded columns, so that it reads as plain text as well."""
    cells = [head] + rows
    width = [max(len(r[i]) for r in cells) for i in range(len(head))]
    left = 2  # the columns that name a row; the others are numbers

    def line(r):
        return "| " + " | ".join(
            c.ljust(w) if i < left else c.rjust(w)
            for i, (c, w) in enumerate(zip(r, width))) + " |"

    rule = "|" + "|".join(
        ("-" * (w + 2)) if i < left else ("-" * (w + 1) + ":")
        for i, w in enumerate(width)) + "|"
    return "\n".join([line(head), rule] + [line(r) for r in rows])


def self_test():
    """The arithmetic on cases done by hand.  Every run begins with it."""
    def same(got, want):
        if got != want:
            raise SystemExit(f"figures.py: self-test: {got!r}, expected {want!r}")

    same(median([3, 1, 2]), 2)
    same(median([4, 1, 3, 2]), 2.5)
    same(median([None, 7]), 7)
    same(median([]), None)
    same(percentile(range(1, 101), 99), 99)
    same(percentile(range(1, 101), 50), 50)
    same(percentile([5], 99), 5)
    same(percentile([1, 2, 3], 99), 3)
    same(percentile([], 99), None)
    # Medians are 20 and 10, but the rounds drift: inside each it is a half.
    same(ratio([10, 20, 40], [20, 40, 80]), "0.50")
    # A round that one side lacks is left out, not shifted.
    same(ratios([1, None, 3], [2, 4, 4]), [0.5, 0.75])
    same(ratio([1], [None]), "n/a")
    same(ratio([None], [None]), "n/a")
    same(spread([1000.4, 3000, 2000]), "2 000 (1 000..3 000)")
    same(spread([1.25], 1), "1.2")
    same(spread([None]), "n/a")
    same(table(["a", "b", "c"], [["x", "yy", "10"]]),
         "| a | b  |  c |\n|---|----|---:|\n| x | yy | 10 |")


if __name__ == "__main__":
    self_test()
    print("figures: ok")
