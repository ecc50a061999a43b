"""pass@k: the chance that one of k responses to a problem is right, from n >= k that were drawn."""

import math


def pass_at_k(drawn: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that one of k responses is right: 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), section 2.1, equation 1.

    Args:
        drawn: n, responses drawn; at least k.
        correct: c, those that are right.
        k: responses that one would have.
    """
    return 1.0 - math.comb(drawn - correct, k) / math.comb(drawn, k)


def told_ks(drawn: int) -> list[int]:
    """The k that are told of so many drawn responses: 1, 2, 4, … and all of them."""
    return sorted({2**power for power in range(drawn.bit_length())} | ({drawn} if drawn else set()))
