"""What looks like names of persons in what a source says of a picture, and whether a caption repeats it.

A heuristic without a list of all names, that errs on the side of finding one: two capitalised words in a row, a known given name, what follows "Mr" or stands
before 「さん」, and the creator. Of a line in title case or capitals nothing is told at all. So names of places and works are taken out too where nothing tells them apart, and a name of one uncommon word goes
unseen. Captioners are told nothing of all this by default; `CaptionConfig.hints` does that, and `keep_names` leaves names in.
"""

import re
from collections.abc import Mapping, Sequence

Hints = Mapping[str, str | None]  # what the source says of a picture: "title", "alt_text", "creator"

BLANK = "…"  # stands where a name was
TITLE_CASE_WORDS, TITLE_CASE_SHARE = 5, 0.8  # a line of so many words of which so many are capitalised tells nothing by its capitals
LOOK_AT = 2_000  # characters of each hint


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GIVEN = _words_of(
    """
    aaron abigail adam adrian ahmed alan albert alejandro alessandro alexander alexandra alfred ali alice amanda amy ana andrea andreas andrew angela anita
    anja anna anne annie anthony antonio arthur barbara beatrice ben benjamin bernard beth bob brandon brenda brian bruce bruno carl carla carlos carmen
    caroline catherine cecilia charles charlie charlotte chiara chris christian christina christine christopher claire clara claudia colin craig cynthia
    daniel daniela david deborah denis dennis diana diego dmitri dominic donald donna dorothy douglas edgar eduardo edward eleanor elena elizabeth ella ellen
    emily emma eric erika ernest esther eva evelyn fatima felix fernando florian francesca francesco francis francisco frank frederick gabriel gabriela
    gareth gary george gerald giovanni giulia giuseppe gloria gordon graham greg gustav hannah hans harold harry hassan heather heidi helen helena henrik
    henry hiroshi hugo ian ibrahim igor ines ingrid irene isabel isabella ivan jacob jacqueline jakob james jamie jan jane janet jason javier jean jeff
    jeffrey jennifer jenny jeremy jessica jessie jim joan joanna joe johan johanna johann johannes john johnny jonas jonathan jorge jose joseph josh joshua
    juan judith julia julian julie jürgen karen karin karl karolina kate katherine kathleen katie keith kelly ken kenji kenneth kevin kim klaus kristina
    larry laura lauren laurent lea leo leon leonardo lewis liam linda lisa lorenzo louis louise luca lucas lucia luis luisa lukas lydia maja malcolm manuel
    marc marcel marco marcus margaret maria marie marina mario marion martha martin martina mary mateo matteo matthew maurice max megan melissa michael
    michel michelle miguel mike mohamed mohammed monica muhammad nadia nancy naomi natalia natalie nathan neil nicholas nicole nikolai nina noah olga oliver
    olivia omar oscar otto pablo pamela patricia patrick paul paula pedro peter petra philip pierre rachel rafael ralph raymond rebecca ricardo richard
    rob robert roberto robin roger roland ronald rosa roy ruth ryan sabine sakura sally samantha samuel sandra sara sarah sean sebastian sergei sergio
    sharon silvia simon sofia sophia sophie stefan stefano stella stephanie stephen steve steven stuart susan suzanne sven takeshi tanja tatiana teresa
    theodore theresa thomas tim timothy tina tobias todd tom tony tyler ursula valentina vanessa vera veronica victor victoria viktor vincent vladimir
    walter wendy wilhelm william wolfgang xavier yoko yuki yuri yvonne zoe
    """
)
_HONORIFIC = (
    r"(?:Mr|Mrs|Ms|Miss|Mx|Dr|Prof|Professor|Sir|Lady|Lord|Dame|Madame|Mme|Monsieur|Herr|Frau|Señora?|Signora?|Captain|Capt|Col|General|Gen|Lt|Sgt"
    r"|Rev|President|Senator|Sen|Governor|Mayor|Minister|Queen|King|Prince|Princess|Pope|Saint|Uncle|Aunt|Grandma|Grandpa)\.?"
)
_CAPITALISED = r"(?:[A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĘĚĞĢĪĶŁĻŃŅŇŌŐŘŚŞŠŤŪŮŰŹŻŽА-ЯЁІЇЄΑ-Ω][\w'’]*(?:-[^\W\d_][\w'’]*)*)"
_PARTICLE = r"(?:de|da|di|do|du|dos|del|della|van|von|der|den|ter|ten|la|le|bin|ibn|al|el|y|e)"
_WORD = re.compile(r"[^\W\d_][\w'’]*(?:-[^\W\d_][\w'’]*)*")
_RUN = re.compile(rf"{_CAPITALISED}(?:\.?[ \t]+(?:{_PARTICLE}[ \t]+){{0,2}}{_CAPITALISED})+")
_AFTER_HONORIFIC = re.compile(rf"\b{_HONORIFIC}[ \t]+((?:{_CAPITALISED}\.?[ \t]+){{0,3}}{_CAPITALISED})")
_SINGLE = re.compile(rf"\b{_CAPITALISED}")
# A run of kanji or of katakana before a title of respect; other words that end alike are not names.
_JAPANESE = re.compile(r"([一-鿿々]{1,6}|[ァ-ヺー・]{2,20})(?:さん|ちゃん|くん|さま|先生|選手|氏|君|様)")
_NOT_NAMES = _words_of(
    "父 母 兄 姉 客 皆 奥 赤 子 娘 息子 孫 神 仏 王 殿 犬 猫 猿 象 熊 兎 鳥 店 隊 縞模 模 同 仕 多 異 一 各 有 態 摂 華 両 諸 主 名 患者 店員 駅員 職人 花嫁 花婿 老人 担任 "
    "観客 乗客 選手 女王 王女 王子 姫 お 若 坊 嬢"
)
_CJK_NAME = re.compile(r"[一-鿿々ぁ-んァ-ヺー가-힣]{2,}")
# Capitalised without being of a person's name; a run loses them at both ends.
_NO_NAME = _words_of(
    """
    a an the my our your his her their this that these those i we you it one two three some and or of in on at by for with from to into as is are was
    photo photograph picture image portrait painting drawing view scene untitled img dsc dscf jpg png file no day night morning evening
    monday tuesday wednesday thursday friday saturday sunday january february march april may june july august september october november december
    spring summer autumn fall winter christmas easter happy birthday merry new old young little big great american british english french german italian
    spanish dutch russian chinese japanese african european asian indian canadian mexican
    """
)
_PLACE_FIRST = _words_of("new north south east west northern southern eastern western mount mt lake fort port los las san santa são saint st united")
_PLACE_LAST = _words_of(
    """
    street st road rd avenue ave lane square plaza bridge park garden gardens tower towers river creek lake sea ocean bay beach coast island islands mountain
    mountains mount hill hills valley canyon falls forest desert museum gallery library church cathedral abbey temple mosque castle palace fort university
    college school station airport harbour harbor port stadium arena theatre theater hotel restaurant cafe market house hall center centre city town village
    county state states district region province national kingdom republic festival parade club team company society association day york
    zealand angeles francisco diego vegas orleans jersey mexico delhi
    """
)
# Surnames that are words of many captions: alone they name nobody.
_ORDINARY = _words_of(
    """
    black white brown green grey gray gold silver rose wood woods stone field fields hill forest rivers lake brook bird fox wolf lamb fish cook baker butcher
    smith miller taylor carpenter farmer fisher hunter shepherd potter mason king queen prince knight pope bishop young old long short small little large rich
    bush reed park parks church house hall street bridge banks bell ball cross winter summer snow frost rain day may june april august love hope grace joy art
    page price power best good man woman boy girl dog cat photo photography studio studios images pictures
    """
)


def names_of(hints: Hints) -> tuple[str, ...]:
    """What looks like names of persons in title and alt_text, and the creator as a whole."""
    found = [name for key in ("title", "alt_text") for name in _names(hints.get(key) or "")]
    creator = " ".join((hints.get("creator") or "")[:LOOK_AT].split())
    return tuple(dict.fromkeys([*found, *([creator] if creator else [])]))


def without_names(text: str, creator: str | None = None) -> str:
    """A title or description as a model may be told it: `BLANK` stands where it seemed to name a person, or its creator."""
    text = "\n".join(BLANK if _is_title_case(line) else line for line in text[:LOOK_AT].splitlines())  # what cannot be searched is not told
    names = [*_names(text), *([creator.strip()] if creator and creator.strip() else [])]
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(_whole(name), BLANK, text, flags=re.IGNORECASE)
    return text


def names_in(caption: str, names: Sequence[str]) -> list[str]:
    """Of `names` those that a caption repeats, as a whole or by one of their capitalised words.

    Single words are compared with their capitals, or without them where the caption has none at all; words of `_ORDINARY` count only within the whole name.
    """
    lower = caption == caption.lower()
    words = {word if not lower else word.casefold() for word in _words(caption)}
    return [name for name in names if _repeats_whole(caption, name) or any((word.casefold() if lower else word) in words for word in _telling(name))]


def _names(text: str) -> list[str]:
    """Names of persons in a title or a description, in their order."""
    text = text[:LOOK_AT]
    found = [match[1] for match in _AFTER_HONORIFIC.finditer(text)]
    found += [match[1] for match in _JAPANESE.finditer(text) if match[1] not in _NOT_NAMES and match[1][-1:] not in _NOT_NAMES]
    for line in text.splitlines():
        found += [match[0] for match in _SINGLE.finditer(line) if _is_given(match[0]) and not _is_place(line[: match.start()])]
        found += [name for match in _RUN.finditer(line) if (name := _trimmed(match[0], _is_title_case(line)))]
    longest_first = sorted(dict.fromkeys(found), key=len, reverse=True)
    return [name for place, name in enumerate(longest_first) if not any(re.search(_whole(name), longer) for longer in longest_first[:place])]


def _is_title_case(line: str) -> bool:
    """Whether capitals tell nothing: a long line of capitalised words, or one in capitals throughout."""
    words = _WORD.findall(line)
    capitals = sum(word[0].isupper() for word in words)
    return line.isupper() or (len(words) >= TITLE_CASE_WORDS and capitals >= TITLE_CASE_SHARE * len(words))


def _trimmed(run: str, title_case: bool) -> str | None:
    """A run of capitalised words without those at its ends that are of no name; None where it seems to name a place or nothing."""
    words = run.split()
    while words and words[0].strip(".").casefold() in _NO_NAME:
        words = words[1:]
    while words and words[-1].casefold() in _NO_NAME:
        words = words[:-1]
    given = [place for place, word in enumerate(words) if _is_given(word)]
    if given:
        return " ".join(words[max(given[0] - 1, 0) :][:5]) if words[0].casefold() not in _PLACE_FIRST else None
    if len(words) < 2 or title_case or words[0].casefold() in _PLACE_FIRST or words[-1].casefold() in _PLACE_LAST:
        return None
    return " ".join(words)


def _is_given(word: str) -> bool:
    """Whether a word, without its possessive ending and what follows a hyphen, is a known given name."""
    return re.sub(r"['’]s?$", "", word).split("-")[0].casefold() in _GIVEN


def _is_place(before: str) -> bool:
    """Whether what stands before a given name makes it one of a place, as in San Francisco."""
    return before.rstrip().rpartition(" ")[2].casefold() in _PLACE_FIRST


def _words(text: str) -> list[str]:
    return [re.sub(r"['’]s?$", "", word) for word in _WORD.findall(text)]


def _telling(name: str) -> list[str]:
    """The words of a name that alone point to it."""
    return [word for word in _words(name) if len(word) > 2 and word[0].isupper() and word.casefold() not in _ORDINARY | _NO_NAME | _PLACE_LAST]


def _repeats_whole(caption: str, name: str) -> bool:
    """Whether a caption holds the whole name, whatever its capitals; one ordinary word is not enough."""
    words = _words(name)
    if not words or (len(words) == 1 and (words[0].casefold() in _ORDINARY | _NO_NAME or len(name) < 3) and not _CJK_NAME.fullmatch(name)):
        return False
    return re.search(_whole(name), caption, re.IGNORECASE) is not None


def _whole(name: str) -> str:
    """A pattern of a name that is not part of a longer word; names without spaces may stand within other letters."""
    pattern = r"\s+".join(map(re.escape, name.split()))
    return pattern if _CJK_NAME.search(name) else rf"(?<!\w){pattern}(?!\w)"
