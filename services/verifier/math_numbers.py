"""Numbers, times, ratios, based numerals and choices: what is decided exactly, without computer algebra. Pure."""

import re
from dataclasses import dataclass
from fractions import Fraction

_MAX_EXPONENT = 1000
_EVIDENT_DIGITS = 3
"""In `0.333...` so many digits have to show what goes on."""

_INTEGER = r"\d{1,3}(?:,\d{3}){1,12}|\d{1,3}(?: \d{3}){1,12}|\d{1,1000}"
_FRACTION_PART = r"\{\s?(-?\d{1,400})\s?\}|(\d)"
_DECIMAL = re.compile(rf"([-+]?)\s?(?:({_INTEGER})(?:\.(\d{{0,400}}))?|\.(\d{{1,400}}))")
_REPEATING = re.compile(
    r"([-+]?)(\d{0,100})\.(\d{0,100})(?:\\overline\s?\{(\d{1,100})\}|\((\d{1,100})\)|\\dot\s?\{?(\d)\}?)"
)
_DOTTED = re.compile(r"([-+]?)(\d{0,100})\.(\d{0,100})\\dot\s?\{?(\d)\}?(\d{0,100})\\dot\s?\{?(\d)\}?")
_GOES_ON = re.compile(r"([-+]?)(\d{0,100})\.(\d{3,100})\s?\\[lc]dots")
_PERIOD_AT_END = re.compile(r"(\d{1,50}?)\1+$")
_FRACTION = re.compile(rf"([-+]?)\s?(\d{{1,100}}\s?)?\\frac\s?(?:{_FRACTION_PART})\s?(?:{_FRACTION_PART})")
_MIXED = re.compile(r"([-+]?)\s?(\d{1,100})\s(\d{1,100})\s?/\s?(\d{1,100})")
_SLASHED = re.compile(r"([-+]?)\s?(\d{1,400})\s?/\s?([-+]?)(\d{1,400})")
_SCIENTIFIC = re.compile(
    r"([-+]?)(\d{1,400}(?:\.\d{1,400})?)\s?"
    r"(?:(?:\\times|\\cdot|\*)\s?10\s?\^\s?(?:\{\s?(-?\d{1,4})\s?\}|(\d))|[eE]([-+]?\d{1,4}))"
)
_BASED = re.compile(
    r"([0-9][0-9A-Za-z]{0,200}|[A-Fa-f][0-9A-Fa-f]{1,200})(?:\.([0-9A-Za-z]{1,200}))?\s?_\s?(?:\{\s?(\d{1,2})\s?\}|(\d{1,2}))"
)
_TIME_OR_RATIO = re.compile(r"(\d{1,30})\s?:\s?(\d{1,30})(?:\s?:\s?(\d{1,30}))?\s?(am|pm|AM|PM)?")
_OTHER_CHOICE = r"\(\s?[A-J]\s?\)|(?<![a-zA-Z\\])[A-J]\s?[.:)]|,\s?[A-J](?![a-zA-Z])"
_CHOICE_WITH_TEXT = re.compile(
    rf"(?:\\text\s?\{{\s?)?\(?\s?([A-J])\s?[.:)]\}}?+\s?+(?![,;=+*/-])(?!.{{0,200}}(?:{_OTHER_CHOICE})).{{1,200}}|([a-j])"
)
_CHOICE = re.compile(r"\(?\s?([A-J])\s?\)?|\(?\s?([a-j])\s?\)")


@dataclass(frozen=True)
class ExactNumber:
    """A rational number as it was written."""

    value: Fraction
    has_percent: bool = False

    def same_as(self, other: "ExactNumber", *, percent_may_be_unit: bool) -> bool:
        """Whether both mean one number; a percent sign on one side only is a hundredth, or perhaps a missing unit."""
        if self._without_percent() == other._without_percent():
            return True
        return percent_may_be_unit and self.has_percent != other.has_percent and self.value == other.value

    def _without_percent(self) -> Fraction:
        return self.value / 100 if self.has_percent else self.value


def read_number(text: str) -> ExactNumber | None:
    """The number that a normalised text spells; None if it spells something else."""
    has_percent = text.endswith("%")
    stripped = text.rstrip("%").strip()
    for read in (_read_decimal, _read_fraction, _read_repeating, _read_scientific):
        value = read(stripped)
        if value is not None:
            return ExactNumber(value, has_percent)
    return None


def without_separators(number: str) -> str:
    """A number without what separates its thousands: commas or spaces."""
    return number.replace(",", "").replace(" ", "")


def read_special(text: str) -> tuple[str, object] | None:
    """What a normalised text spells if it is a based numeral, a time or ratio, or a choice: kind and value."""
    based = _BASED.fullmatch(text)
    if based:
        whole, places, *bases = based.groups(default="")
        base = int("".join(bases))
        try:
            return "based", (Fraction(int(whole + places, base), max(base, 1) ** len(places)), base)
        except ValueError:  # no such base, or no such digits in it
            return "based", (f"{whole}.{places}", base)
    clock = _TIME_OR_RATIO.fullmatch(text)
    if clock:
        return "time or ratio", (*(part and int(part) for part in clock.groups()[:3]), (clock.group(4) or "").lower())
    choice = _CHOICE.fullmatch(text)
    if choice:
        return "choice", (choice.group(1) or choice.group(2)).upper()
    return None


def read_chosen(text: str) -> str | None:
    """The letter, where one is expected, in `(A) 5`, `A. 5`, `A: 5` or `a`; None for other text."""
    match = _CHOICE_WITH_TEXT.fullmatch(text)
    return (match.group(1) or match.group(2)).upper() if match else None


def _read_decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text)
    if not match:
        return None
    sign, whole, decimals, only_decimals = match.groups()
    digits = without_separators(whole or "0")
    return _signed(sign, Fraction(f"{digits}.{decimals or only_decimals or '0'}"))


def _read_fraction(text: str) -> Fraction | None:
    slashed = _SLASHED.fullmatch(text)
    if slashed:
        sign, top, sign_below, bottom = slashed.groups()
        return _quotient("" if sign == sign_below else "-", Fraction(int(top)), int(bottom))
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, top, bottom = mixed.groups()
        return _signed(sign, int(whole) + Fraction(int(top), int(bottom))) if int(top) < int(bottom) else None
    match = _FRACTION.fullmatch(text)
    if not match:
        return None
    sign, whole, *parts = match.groups()
    numerator, denominator = int(parts[0] or parts[1]), int(parts[2] or parts[3])
    if whole is None:
        return _quotient(sign, Fraction(numerator), denominator)
    if numerator < 0 or denominator <= 0:  # a product, not a mixed number
        return None
    return _signed(sign, int(whole) + Fraction(numerator, denominator))


def _read_repeating(text: str) -> Fraction | None:
    if match := _REPEATING.fullmatch(text):
        sign, whole, fixed, *periods = match.groups()
        period = next(filter(None, periods))
    elif match := _DOTTED.fullmatch(text):
        sign, whole, fixed, first, between, last = match.groups()
        period = first + between + last
    elif match := _GOES_ON.fullmatch(text):
        sign, whole, digits = match.groups()
        repeats = _PERIOD_AT_END.search(digits)
        if repeats is None or len(repeats.group()) < _EVIDENT_DIGITS:
            return None
        fixed, period = digits[: repeats.start()], repeats.group(1)
    else:
        return None
    repeated = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return _signed(sign, Fraction(f"{whole or 0}.{fixed or 0}") + repeated)


def _read_scientific(text: str) -> Fraction | None:
    match = _SCIENTIFIC.fullmatch(text)
    if not match:
        return None
    sign, mantissa, braced, digit, after_e = match.groups()
    exponent = int(braced or digit or after_e)
    if abs(exponent) > _MAX_EXPONENT:
        return None
    return _signed(sign, Fraction(mantissa) * Fraction(10) ** exponent)


def _quotient(sign: str, numerator: Fraction, denominator: int) -> Fraction | None:
    return None if denominator == 0 else _signed(sign, numerator / denominator)


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
