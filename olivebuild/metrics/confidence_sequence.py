"""How many rows of a data set are right, while they are asked: intervals that hold at every moment.

An interval such as Wilson's holds at one number of rows that was fixed before. Who looks after each
row and stops at the first clear answer is wrong far more often. A confidence sequence is right at
all times at once with its level's probability, so any moment may be taken to stop.

It is about the finite data set, not about all rows that there might be: the rows are drawn from it
at random without replacement, and after the last one nothing is uncertain any more. What the share
says of other rows of its kind is for Wilson's interval over all rows, by which gates are judged.

The sequence is the beta-binomial mixture (Robbins 1970, Ann. Math. Stat. 41:1397; Howard, Ramdas,
McAuliffe and Sekhon 2021, Ann. Stat. 49:1055) in the form for draws without replacement of
Waudby-Smith and Ramdas 2020, "Confidence sequences for sampling without replacement", section 2: a
mixture's likelihood of what was seen, divided by that under each number of right rows, is a
martingale under the true number, and exceeds 1 / alpha with a probability of at most alpha (Ville's
inequality).
"""

from __future__ import annotations

from math import inf, lgamma, log

PRIOR = 0.5
"""Both parameters of the mixture's beta distribution (Jeffreys')."""


class ShareSequence:
    """The bounds of the number of right rows among `rows`, which come in random order.

    `low` and `high` hold for all moments at once with a probability of `level`; they only close in.
    """

    def __init__(self, rows: int, level: float = 0.95) -> None:
        self.rows = rows
        self.seen = 0
        self.right = 0
        self.low = 0
        self.high = rows
        self._limit = -log(1 - level)

    def see(self, *, right: bool) -> None:
        """Take in the next row.

        Raises ValueError after the last one.
        """
        if self.seen == self.rows:
            raise ValueError(f"there are no more than {self.rows} rows")
        self.seen += 1
        self.right += right
        # What has been seen is certain, even where the bounds were wrong.
        least, most = self.right, self.rows - self.seen + self.right
        self.low = min(max(self.low, least), most)
        self.high = max(min(self.high, most), least)
        self._close_in()

    def _close_in(self) -> None:
        """Drop the numbers at both ends that what was seen refutes.

        The likelihood has one peak, so a number that is not refuted ends the search. It may be that
        all are, which happens with a probability of at most 1 - level: the bounds then meet where
        they are.
        """
        mixture = _log_beta(PRIOR + self.right, PRIOR + self.seen - self.right)
        mixture -= _log_beta(PRIOR, PRIOR)
        while self.low < self.high and mixture - self._log_likelihood(self.low) >= self._limit:
            self.low += 1
        while self.low < self.high and mixture - self._log_likelihood(self.high) >= self._limit:
            self.high -= 1

    def _log_likelihood(self, total: int) -> float:
        """Return the logarithm of how likely this sequence is, if `total` rows are right."""
        wrong = self.rows - total
        left = total - self.right
        if left < 0 or wrong < self.seen - self.right:
            return -inf
        return _log_choose(self.rows - self.seen, left) - _log_choose(self.rows, total)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
