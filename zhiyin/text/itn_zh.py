"""Chinese numbers as they are written: figures where GB/T 15835-2011 asks for them, characters where it keeps them.

A scan from left to right. Words of `data/kept_zh.txt` are hidden first. Then each run of numerals is read with what
stands around it (百分之, 分之, 点, 年, 到, a unit ...); what is no well-formed number is left as it was spoken.
Every pattern is tried at one place only and a run is read once, so the time is linear in the length of the text.
"""

import re
from collections.abc import Iterator

from zhiyin.text.itn_zh_words import DIGITS, FIGURES, NUMERALS, cardinal, exact, figures, is_rough, kept

Edit = tuple[int, int, str]  # start and end in the spoken text, what is written there

_HIDDEN = "\ufffc"  # stands for characters that belong to kept words

# Units of measure: a single figure before one of these is written in figures too (GB/T 15835, 4.1.1: 计量).
_UNITS = """
平方公里 平方千米 平方米 平方厘米 立方米 立方厘米 平米 公里 千米 厘米 毫米 微米 纳米 公分 海里 英里 英尺
英寸 公顷 米 亩 公斤 千克 毫克 微克 克(?!拉|服|隆|制) 斤 吨 毫升 升(?!级|职|学|旗|降|温|起) 千瓦时 千瓦
兆瓦 瓦 伏特 安培 毫安 欧姆 赫兹 千赫 兆赫 分贝 千卡 大卡 马力 兆字节 兆 摄氏度 华氏度 秒钟 毫秒
秒(?!杀|懂|变|回) 分钟 小时 个百分点 元 美元 欧元 英镑 日元 港元 港币 美金 人民币 韩元 块钱 毛钱 分钱 岁
折(?!腾|叠|磨) 楼 倍 度电 度(?!假|过|量|数|外) 号线 帧 像素 kg km cm mm mg ml kb mb gb tb hz kw db
"""
_UNIT = "|".join(sorted(_UNITS.split(), key=len, reverse=True)).replace("千", "[千仟]")
# Classifiers and nouns that make a count of a bare 十, 十一 or 二百五, and of a single figure in a range.
_COUNTED = (
    "[个只条张本位名次天年月周日号页行章节点分米台辆间层户家种项件套份场届级班组队斤票首篇句字杯碗瓶盒包箱袋批根支块头匹"
    "棵朵座栋幢艘架门遍趟步人口集期遍轮枚颗片道题排座元角毛度时刻代]"
)
_PERIOD = (
    r"(?:上午|中午|下午|早上|早晨|清晨|凌晨|晚上|傍晚|深夜|夜里|夜晚|午夜|今早|今晚|明早|明晚|昨晚"
    r"|今天|明天|昨天|后天|每天|[日号]|星期.|礼拜.|周.)"
)
_AFTER_CLOCK = (
    r"(?:钟|整|半|左右|之前|以前|以后|之后|前|后|开始|开会|出发|集合|见面|见(?!解)|起床|睡|下班|上班|起飞|到达|多钟|了"
    rf"|[到至](?:上午|中午|下午|晚上)?[{NUMERALS}]{{1,3}}点)"
)
_NO_DECIMAL = "是个定些下起样直般种会次边旦切共都也儿没"


def edits(text: str) -> Iterator[Edit]:
    """What is written otherwise than spoken, from left to right, none overlapping another.

    >>> list(edits("一共三十二个，一心一意"))
    [(2, 5, '32')]
    """
    reader = _Reader(text)
    at = 0
    while match := _ANCHOR.search(reader.shadow, at):
        at, written = reader.read(match)
        if written is not None and written != text[match.start() : at]:
            yield match.start(), at, written


_SHARE = re.compile(
    rf"负?([百千])分之(百(?![{NUMERALS}])|[{NUMERALS}]+(?:点[{DIGITS}]+)?)(?:([到至])(?!百分)([{NUMERALS}]+(?:点[{DIGITS}]+)?)(?!分之))?"
)
# The 千 of a unit, 仟 in the shadow: 五千克 is 5 千克 and 三十千米 30 千米; 五万三千瓦 is 53,000 瓦.
_KILO = re.compile(
    rf"(?<=[十百])千(?=[米克瓦卡帕赫])|(?<=十[{DIGITS[2:]}])千(?=[米克瓦卡帕赫])|(?<=[^{NUMERALS}][{DIGITS[2:]}两])千(?=[克瓦卡帕赫])"
    rf"|(?<=^[{DIGITS[2:]}两])千(?=[克瓦卡帕赫])|(?<=点[{DIGITS}])千(?=[米克瓦卡帕赫])"
)
_ORDINAL = re.compile(rf"第([{NUMERALS}]+)")
_MINUS = re.compile(rf"负([{NUMERALS}]+)(?:点([{DIGITS}]+))?")
_PART = re.compile(rf"([{NUMERALS}]+)分之([{NUMERALS}]+)")
_MIXED = re.compile(rf"([{NUMERALS}]+)又([{NUMERALS}]+)分之([{NUMERALS}]+)")
_POINT = re.compile(rf"([{NUMERALS}]+)点([{NUMERALS}]+)")
_MONEY = re.compile(rf"([{NUMERALS}]+)块零?([{DIGITS[1:]}])(?:毛([{DIGITS[1:]}])分?|毛)?(?:钱)?")
_YUAN = re.compile(rf"([{NUMERALS}]+)元零?([{DIGITS[1:]}])[角毛](?:([{DIGITS[1:]}])分)?")
_DOTS = re.compile(rf"[{DIGITS}幺]+(?:点[{DIGITS}幺]+){{2,}}(?!分|\s?[度元])")
_HEIGHT = re.compile(rf"([{NUMERALS}]+)([米度秒])([{DIGITS}]{{1,2}})(?![{NUMERALS}点个只条张位楼班年月天次])")
_LINK = re.compile(rf"(到|至|比|加上|加|减去|减|乘以|乘|除以|等于)(负?[{NUMERALS}]+(?:点[{DIGITS}]+)?)")
_MINUTE = re.compile(r"[二三四五]?十[一二三四五六七八九]?|[二三四五]十")
_SMALL_MINUTE = re.compile(r"[零〇][一二三四五六七八九]")
_TAIL = re.compile(rf"([{DIGITS}]+)(百万|千万|万亿|万|亿)?")
_UNIT_NEXT = re.compile(rf"\s?(?:{_UNIT})", re.IGNORECASE)
_COUNTED_NEXT = re.compile(rf"多?余?(?:{_COUNTED}|{_UNIT})")
_PERIOD_BEFORE = re.compile(rf"{_PERIOD}的?$")
_CLOCK_BEFORE = re.compile(r"[点半钟分][到至](?:上午|中午|下午|晚上)?$")
_WARM_BEFORE = re.compile(r"(?:零下|零上|气温|温度|体温|室温|水温|高温|低温|烧到|发烧|[到至约近])$")
_ANCHOR = re.compile(
    rf"(?:(?<![正肩背辜自胜欺担抱])负)?[百千]分之(?=[{NUMERALS}])|第(?=[{NUMERALS}])|(?<![正肩背辜自胜欺担抱])负(?=[{NUMERALS}])|[{NUMERALS}]+"
)


class _Reader:
    """A text and its shadow, in which kept words are hidden; both have the same places."""

    def __init__(self, text: str) -> None:
        self.text = text
        shadow = kept().sub(lambda match: _HIDDEN * len(match.group()), text)
        self.shadow = _KILO.sub("仟", shadow)
        self.forced = -1  # where a number begins that must match the one before it: 三到五天

    def read(self, match: re.Match[str]) -> tuple[int, str | None]:
        """Where the reading of one anchor ends, and what is written for it, or None where it stays as spoken."""
        at = match.start()
        before = self.shadow[at - 1 : at]
        if (before.isascii() and before.isdigit()) or (before in ("几", "数") and match.group()[0] in "十百千万亿"):
            return match.end(), None
        if match.group().endswith("分之"):
            return self._share(at)
        if match.group() == "第":
            return self._ordinal(at)
        if match.group() == "负":
            return self._minus(at)
        return self._number(at, match.group())

    def _share(self, at: int) -> tuple[int, str | None]:
        found = _SHARE.match(self.shadow, at)
        if not found:
            return self.shadow.index("之", at) + 1, None
        base, first, link, last = found.groups()
        sign = "%" if base == "百" else "‰"
        values = [("100" if one == "百" else exact(one)) for one in (first, last) if one]
        if None in values:
            return found.end(), None
        minus = "-" if found[0][0] == "负" else ""
        return found.end(), minus + (link or "").join(f"{value}{sign}" for value in values)

    def _ordinal(self, at: int) -> tuple[int, str | None]:
        found = _ORDINAL.match(self.shadow, at)
        assert found  # the anchor saw the numeral
        run = found[1]
        if (len(run) == 1 and run != "十") or self.shadow[found.end() : found.end() + 1] in ("几", "来"):
            return found.end(), None
        written = figures(run)
        return found.end(), None if written is None or is_rough(run) else f"第{written}"

    def _minus(self, at: int) -> tuple[int, str | None]:
        if (part := _PART.match(self.shadow, at + 1)) and (read := self._part(part)):
            return part.end(), f"-{read[1]}"
        found = _MINUS.match(self.shadow, at)
        assert found
        self._links(at + 1, found.end())
        written = None if is_rough(found[1]) else exact(found[0][1:])
        if written is None:
            return found.end(), None
        sign = "负" if self.shadow[found.end() : found.end() + 1] in ("楼", "层") else "-"
        return found.end(), sign + written

    def _number(self, at: int, run: str) -> tuple[int, str | None]:
        """A run of numerals with what belongs to it; the more special reading is tried first."""
        if found := _DOTS.match(self.shadow, at):  # 127.0.0.1 and versions
            return found.end(), "".join("." if char == "点" else FIGURES[char] for char in found[0])
        money = ((_MONEY, self._money), (_YUAN, self._money))
        for pattern, rule in ((_MIXED, self._mixed), (_PART, self._part), *money, (_POINT, self._point)):
            if (found := pattern.match(self.shadow, at)) and (read := rule(found)):
                return at + len(read[0]), read[1]
        end = at + len(run)
        if (
            run[-1] == "一"
            and run[-2:-1] in tuple("百千万亿")
            and self.shadow[end : end + 1] in tuple("个年月天周次晚")
        ):
            run, end = run[:-1], end - 1  # 三十万一个月 is a sum a month, not 301,000 months
        if (end < len(self.text) and self.shadow[end] in "几来" and run[-1] in "十百千万亿") or (
            is_rough(run) and not self._in_code(at, end)
        ):
            return end, None
        if (found := _HEIGHT.match(self.shadow, at)) and (whole := cardinal(run)) is not None and whole < 1000:
            tail = "".join(FIGURES[char] for char in found[3])
            return found.end(), f"{whole}.{tail}{found[2]}"
        if self._links(at, end):
            return end, figures(run)
        written = figures(run) if len(run) > 1 or run == "十" else self._single(at, run)
        return end, written if (len(run) == 1 and run != "十") or self._is_plain(at, end, run) else None

    def _links(self, at: int, end: int) -> bool:
        """Whether the number must be in figures for its neighbour's sake: 三到五天, 三比二, 二加三等于五."""
        is_forced = self.forced == at
        link = _LINK.match(self.shadow, end)
        if link and figures(self.shadow[at:end]) and not is_rough(link[2]) and exact(link[2].lstrip("负")):
            long = len(link[2]) > 1 or end - at > 1
            counted = _COUNTED_NEXT.match(self.shadow, link.end()) is not None
            if is_forced or link[1] not in ("到", "至") or counted or (long and cardinal(link[2]) is not None):
                self.forced = link.start(2)
                return True
        return is_forced

    def _is_plain(self, at: int, end: int, run: str) -> bool:
        """Whether a well-formed number of several characters is written in figures."""
        following = self.shadow[end : end + 1]
        if run in ("十", "十一", "二百五", "三八", "五四"):
            alone = run == "十" and (not following or not "一" <= following <= "龥")
            return alone or bool(_COUNTED_NEXT.match(self.shadow, end)) or following == "多"
        if all(char in FIGURES for char in run):
            if len(run) == 2:
                return run[0] in "零〇" or following in ("年", "后", "届") or self._in_code(at, end)
            named = self.shadow[at - 1 : at] in ("号", "码")
            return named or run not in ("一二三", "一二三四", "一二三四五", "三二一", "五四三二一")
        return following != "大" or run[-1] not in "十" or len(run) > 2

    def _in_code(self, at: int, end: int) -> bool:
        """Whether a capital letter stands beside the numerals, as in a number plate."""
        beside = self.shadow[max(0, at - 1) : at] + self.shadow[end : end + 1]
        return any("A" <= char <= "Z" for char in beside)

    def _single(self, at: int, figure: str) -> str | None:
        """One figure: written before a unit, in a date and beside Latin letters, else a word like any other."""
        if figure not in FIGURES:
            return None
        after = self.shadow[at + 1 : at + 8]
        before = self.shadow[max(0, at - 3) : at]
        next_to_latin = (
            after[:1].isascii() and after[:1].isalpha() and (after[:1].isupper() or not after[1:2].isalpha())
        )
        before_is_name = before[-1:].isascii() and before[-1:].isupper() and not _COUNTED_NEXT.match(after)
        if (
            (after.startswith("月") and figure not in ("零", "两"))
            or next_to_latin
            or (before_is_name and figure != "一")
        ):
            return FIGURES[figure]
        if before.endswith("月") and re.match(r"日|[^一-龥]|$", after):
            return FIGURES[figure]
        if after.startswith("点"):
            return FIGURES[figure] if self._is_hour(at, figure) else None
        if re.match(r"号(?![称召令角脉外])", after):
            return FIGURES[figure]
        if figure == "一" and re.match("[倍度折楼升兆瓦]|分钱", after):
            return "1" if after.startswith("楼") else None
        if re.match(r"度(?!电)", after) and figure in "二三" and not _WARM_BEFORE.search(before):
            return None
        if re.match(r"分[零一二三四五六七八九十]+秒", after) or (re.match(r"分", after) and before.endswith("点")):
            return FIGURES[figure]
        return FIGURES[figure] if _UNIT_NEXT.match(after) else None

    def _is_hour(self, at: int, figure: str) -> bool:
        """三点 is a time after a part of the day or before what only a time can have, else three points."""
        after = self.shadow[at + 2 : at + 6]
        if figure == "一" and ((after[:1] and after[0] in _NO_DECIMAL) or re.match("[前后之以了]", after)):
            return False
        said_when = _PERIOD_BEFORE.search(self.text[max(0, at - 4) : at]) or _CLOCK_BEFORE.search(
            self.text[max(0, at - 4) : at]
        )
        return bool(said_when or self.forced == at or re.match(_AFTER_CLOCK, after))

    def _mixed(self, found: re.Match[str]) -> tuple[str, str] | None:
        whole, low, high = (cardinal(part) for part in found.groups())
        return None if None in (whole, low, high) else (found[0], f"{whole}又{high}/{low}")

    def _part(self, found: re.Match[str]) -> tuple[str, str] | None:
        low, high = cardinal(found[1]), cardinal(found[2])
        return None if low is None or high is None else (found[0], f"{high}/{low}")

    def _money(self, found: re.Match[str]) -> tuple[str, str] | None:
        """三块五: only where the last figure cannot count something else."""
        whole = cardinal(found[1])
        tail = self.shadow[found.end() : found.end() + 1]
        safe = re.search("[毛角]", found[0]) or not (
            tail and (tail in NUMERALS or re.match(f"{_COUNTED}|[点毛角]", tail))
        )
        if whole is None or not safe or self.shadow[found.end() : found.end() + 2] == "毛钱":
            return None
        return found[0], f"{whole}.{FIGURES[found[2]]}{FIGURES[found[3]] if found[3] else ''}元"

    def _point(self, found: re.Match[str]) -> tuple[str, str] | None:
        """三点二十, 三点五分 and 下午三点零五 are times, 三点五 and 三点一四 are decimals."""
        whole, tail = found[1], found[2]
        hour = cardinal(whole)
        after = self.shadow[found.end() : found.end() + 2]
        before = self.text[max(0, found.start() - 4) : found.start()]
        in_minutes = after[:1] == "分" and after[1:] not in ("钟", "之", "贝")
        if hour is not None and hour <= 24:
            if (tail == "一" and after[:1] == "刻") or (tail == "三" and after[:1] == "刻"):
                return f"{whole}", str(hour)
            clock = in_minutes or bool(_PERIOD_BEFORE.search(before)) or self.forced == found.start()
            if _MINUTE.fullmatch(tail) or (_SMALL_MINUTE.fullmatch(tail) and clock):
                minute = cardinal(tail.lstrip("零〇"))
                return found[0], f"{hour}点{minute:02}"
            if len(tail) == 1 and in_minutes and tail in FIGURES:
                return found[0], f"{hour}点{FIGURES[tail]}"
        parts = _TAIL.fullmatch(tail)
        if hour is None or not parts or (tail == "一" and after[:1] and after[0] in _NO_DECIMAL):
            return None
        return found[0], f"{hour}.{''.join(FIGURES[char] for char in parts[1])}{parts[2] or ''}"
