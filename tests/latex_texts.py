"""Pieces of responses and answers, and texts put together from them as no person would."""

from hypothesis import strategies as st

_LATEX = r"""
    \boxed{ \boxed \fbox{ </think> #### $ $$ \( \) \[ \] **Answer:** ``` ```python ```cpp { } \{ \} ( ) [ ] , ; : = < >
    | \mid \le \ge \ne \in \cup \cap \setminus \pm \mp ^ _ & \\ \ + - / * ~ ! ' % \% $ € . ... … \frac \dfrac \sqrt
    \binom \overline{ \dot{ \ldots \text{ \mathrm{ \text{or} \text{and} \left( \right] \begin{pmatrix} \end{pmatrix}
    \langle \rangle \times \cdot \circ ^\circ ° \, \! \sin \log_ \int_ \sum_ 0 1 23 ,000 .5 1/2 e5 10^ _2 _{16} 0.
    99999 ± ∓ \colon \choose \bar{ \mathbb{R}^+ ** /s kg ^2 x y i \pi e A (B) C. pm am cm \infty \emptyset \mathbb{R}
    ² ٣ １ − ＋
"""

PIECES = [
    *_LATEX.split(),
    *(
        "\n",
        " ",
        "\\ ",
        "the answer is ",
        "Answer: ",
        " for integer k",
        " base ",
        "cis ",
        "option ",
        " to ",
        " and ",
        "USD ",
        "five",
        "def f(x): return ",
        "#include <",
    ),
    *("\x00", "\u200b", "\U0001f600", "\ud800"),
]

pieces = st.sampled_from(PIECES)
latex = st.lists(pieces, max_size=20).map("".join)
texts = st.one_of(latex, st.text(max_size=60), st.tuples(latex, st.text(max_size=20), latex).map("".join))
repeated = st.tuples(texts, pieces, st.integers(1, 2000), texts).map(lambda part: part[0] + part[1] * part[2] + part[3])
