"""Chinese words in an answer: connectives, units, scales, numerals and labels, in LaTeX; what is not known stays and is not read."""

import re
from fractions import Fraction

_HAN = "\u4e00-\u9fff"
_ANY = re.compile(f"[{_HAN}]")
_IN_TEXT = re.compile(rf"\\(?:text|mathrm|mbox|textbf|textrm)\s*\{{\s*([{_HAN}，、：:()（）\s]+?)\s*\}}")
_PHRASES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?:方程|不等式|原方程|方程组)?(?:无实数?解|无解|没有实数?解|无实数?根)", r"\\text{no solution}"),
        (r"(?:极限)?不存在", r"\\text{does not exist}"),
        (r"空集", r"\\emptyset "),
        (r"(?:全体|一切|任意|所有)实数|实数集", r"\\mathbb{R}"),
        (r"(?:有)?(?:无数|无穷多|无限多)个?(?:解)?", r"\\text{infinitely many}"),
        (r"^(?:是的?|对|正确|能|可以|成立)$", r"\\text{Yes}"),
        (r"^(?:否|不是|不对|错误|不能|不可以|不成立)$", r"\\text{No}"),
        (r"^(?:故|所以|因此)?(?:正确)?(?:(?:答案|选项)(?:应?选|[:：是为])?|应?选)\s*[:：]?\s*(?=[A-D\\])", ""),
        (r"充分必要(?:条件)?|充分且必要(?:条件)?|充要(?:条件)?", "充要条件"),
        (r"充分[而但]?[不非]必要(?:条件)?", "充分不必要条件"),
        (r"必要[而但]?[不非]充分(?:条件)?", "必要不充分条件"),
        (r"\s*[,(]?\s*(?:其中)?\s*([a-z])\s*(?:为|是|取)(?:任意|任何)?整数\s*\)?$", r", \1 \\in \\mathbb{Z}"),
        (r"[,(]\s*其中\s*", ", ("),
        (rf"(?<=[^{_HAN}])\s*(?:或者|或)\s*(?=[^{_HAN}])", r" \\text{ or } "),
        (rf"(?<=[^{_HAN}])\s*(?:和|且|与|及|以及|并且)\s*(?=[^{_HAN}])", r" \\text{ and } "),
        (r"^最[大小]值\s*(?=[-\d\\(])", ""),
        (r"^(?:大约|约为|约等于|约)\s*", r"\\approx "),
    )
)
_DIGIT = "零一二三四五六七八九"
_NUMERAL = rf"[{_DIGIT}两十百千万亿]+"
_SHARE = re.compile(rf"({_NUMERAL}|\d{{1,9}})分之({_NUMERAL}|\d{{1,9}})")
_PER_CENT = re.compile(rf"百分之({_NUMERAL}|\d{{1,9}}(?:\.\d{{1,9}})?)")
_SCALED = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)\s*([万亿千百])")
_LONE = re.compile(rf"(?<![{_HAN}])({_NUMERAL})(?=$|[^{_HAN}]|[个人元岁米天条只本种次张块支])")
_SCALES = {"十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8}
_UNITS = {
    "平方厘米": "cm^2", "平方分米": "dm^2", "平方米": "m^2", "平方千米": "km^2", "立方厘米": "cm^3", "立方分米": "dm^3", "立方米": "m^3",
    "千米/时": "km/h", "千米/小时": "km/h", "千米每小时": "km/h", "公里/小时": "km/h", "米/秒": "m/s", "米每秒": "m/s", "厘米": "cm",
    "毫米": "mm", "分米": "dm", "千米": "km", "公里": "km", "米": "m", "千克": "kg", "公斤": "kg", "克": "g", "吨": "ton", "升": "l",
    "毫升": "ml", "小时": "h", "分钟": "min", "秒": "s", "天": "days", "元": "yuan", "度": "degrees", "岁": "years",
}  # fmt: skip
_COUNTERS = "人名个只本条次种棵张辆件页支组块根头匹桶间双对位"
_UNIT = re.compile(rf"(?<=[\d)}}])\s*({'|'.join(sorted(_UNITS, key=len, reverse=True))}|个?[{_COUNTERS}])(?=$|[^{_HAN}])")
_NOUN = re.compile(rf"\s*\(\s*[{_COUNTERS}]\s*\)$")
_LABEL = re.compile(
    rf"^(?=[a-zA-Z\s]*[{_HAN}])[{_HAN}a-zA-Z\s]*(?:是|为|等于|[:：=])\s*(?=[^{_HAN}])|^(?:故|所以|因此|解得|解|则|即|共)\s*[:：]?\s*(?=[^{_HAN}])"
)
_CHANGING = re.compile("[不非没无错除少多超大小高低]|以[上下外内]|最[大小]?[少多]|约|或")
_EXTREMES = re.compile("最[大小]|大小|多少|面积大|取值范围")
MAX_CHARS = 300


def translated(text: str) -> str:
    """The text with its Chinese parts in LaTeX."""
    if text.isascii() or not _ANY.search(text) or len(text) > MAX_CHARS:
        return text
    text = _IN_TEXT.sub(r" \1 ", text).strip()
    text = _PER_CENT.sub(lambda m: f"{_figures(m.group(1))}\\%", text)
    text = _SHARE.sub(lambda m: rf"\frac{{{_figures(m.group(2))}}}{{{_figures(m.group(1))}}}", text)
    text = _SCALED.sub(lambda m: _decimal(Fraction(m.group(1)) * _SCALES[m.group(2)]), text)
    text = _LONE.sub(lambda m: _figures(m.group(1)), text)
    for pattern, replacement in _PHRASES:
        text = pattern.sub(replacement, text)
    text = _UNIT.sub(lambda m: rf"\text{{ {_UNITS[m.group(1)]} }}" if m.group(1) in _UNITS else "", _NOUN.sub("", text))
    return _without_label(text).strip()


def _without_label(text: str) -> str:
    label = _LABEL.match(text)
    if label is None or _CHANGING.search(_EXTREMES.sub("", label.group())):
        return text
    return text[label.end() :] or text


def _figures(text: str) -> str:
    """A numeral of signs in figures; figures as they are."""
    if text[0].isdigit():
        return text
    total = section = digit = 0
    for sign in text.replace("两", "二"):
        if sign in _DIGIT:
            digit = _DIGIT.index(sign)
        elif sign in "万亿":
            total, section, digit = (total + section + digit) * _SCALES[sign], 0, 0
        else:
            section, digit = section + (digit or 1) * _SCALES[sign], 0
    return str(total + section + digit)


def _decimal(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else str(float(value))
