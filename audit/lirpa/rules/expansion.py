"""The remainder of an expansion of first order, in pieces.

On the way from c to c + D, with F(t) = f(c + t D), the remainder F(1) - F(0) - F'(0) is the integral of (1 - t) F''(t).
In the piece from t0 to t1 the weights (1 - t) sum to ((1 - t0)^2 - (1 - t1)^2) / 2, and c + t D lies in the box around
c whose radii are t1 times those of D. Bounds of F'' that get wider with the box are thus needed for small boxes mostly:
one bound for all of them would have the weight 1 / 2.
"""

from __future__ import annotations

COUNT = 4
PIECES = tuple(
    (stop / COUNT, ((1 - (stop - 1) / COUNT) ** 2 - (1 - stop / COUNT) ** 2) / 2) for stop in range(1, COUNT + 1)
)
"""Shares t1 of the radii, each with the weight of its piece."""
