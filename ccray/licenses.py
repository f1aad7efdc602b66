"""Licences: from what a catalog says to an SPDX id and what it permits.

The permissions are those of Creative Commons' own RDF (cc.licenserdf). A text that is not recognised is unknown: it permits nothing.
Of two possible readings the stricter one is taken, or none, and ND never allows training, whatever the policy.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from ccray.license_names import (
    AGAINST,
    AGAINST_CHANGES,
    AGAINST_COMMERCIAL,
    AGAINST_GRANT,
    DEED_FAMILIES,
    FAMILIES,
    PUBLIC_DOMAIN,
    PUBLIC_TOOLS,
    SPDX_OF,
    SPDX_PORTED,
    STATEMENT_URLS,
    TERMS,
    UNVERSIONED,
    Bucket,
    Deed,
)
from ccray.license_texts import CHARACTERS_AT_MOST, Mention, Reading, read

__all__ = ["FAMILIES", "POLICIES", "Bucket", "License", "Policy", "parse", "refusal"]

Policy = Literal["permissive", "commercial", "noncommercial"]
POLICIES: tuple[Policy, ...] = get_args(Policy)


@dataclass(frozen=True)
class License:
    """One licence and what it permits; permissions are `None` when unknown, `bucket` says what it may be used for.

    `C` stands for CC BY, BY-SA, CC0, the public-domain mark and named public-domain statements, `NC` and `ND` for the licences with these
    elements (ND wins), `none` for all others: retired, software and sampling licences, and the unknown.
    """

    spdx: str | None  # an SPDX id, or a LicenseRef of a public-domain statement; None where SPDX lists none
    family: str | None = None  # as in the deed path: "by-nc-sa", "zero", "mark"
    version: str | None = None
    jurisdiction: str | None = None  # lower-case code of a ported licence: "jp"
    commercial: bool | None = None
    derivatives: bool | None = None
    attribution: bool | None = None
    share_alike: bool | None = None
    bucket: Bucket = "none"
    reason: str = ""

    @property
    def id(self) -> str | None:
        """What a table keeps of it, and `parse` reads back: the SPDX id, or a LicenseRef for a CC licence that SPDX does not list."""
        if self.spdx is not None or self.bucket == "none" or self.family is None:
            return self.spdx
        return "LicenseRef-CC-" + "-".join(part.upper() for part in (self.family, self.version, self.jurisdiction) if part)

    @property
    def url(self) -> str | None:
        """The canonical deed, or the page of a statement that has one."""
        if self.family is None or (self.version is None and self.family not in UNVERSIONED):
            return None
        if self.family not in DEED_FAMILIES:
            return STATEMENT_URLS.get(self.family)
        section = "publicdomain" if self.family in PUBLIC_TOOLS else "licenses"
        family = self.family.upper() if self.family in ("gpl", "lgpl", "bsd", "mit") else self.family
        return f"https://creativecommons.org/{'/'.join(part for part in (section, family, self.version, self.jurisdiction) if part)}/"


def parse(text: str) -> License:
    """The licence that `text` names: a deed or legal-code URL, an SPDX id, a catalog's code, number or usual name, in HTML or not.

    Never raises: what is not recognised, or names several licences of which none is the strictest in everything, comes back with `spdx=None`,
    bucket `none` and the reason. A licence without its version is not usable either: attribution must name the exact one.
    """
    return _parse(text[: CHARACTERS_AT_MOST + 1])


@lru_cache(maxsize=4096)  # a catalog of millions repeats a few statements
def _parse(text: str) -> License:
    if not text.strip():
        return License(None, reason="empty licence statement")
    reading = read(text)
    if reading.faults:
        return License(None, reason=reading.faults[0])
    is_prose = reading.words and not any(mention.stated for mention in reading.addresses)
    mentions = reading.addresses if is_prose else reading.mentions
    if not mentions:
        return License(None, reason=f"not a recognised licence: {' '.join(text.split())[:80]!r}")
    mention = _strictest(_distinct(mentions))
    if mention is None:
        return License(None, reason=f"names several licences: {', '.join(sorted({str(mention.deed) for mention in mentions}))}"[:200])
    license = _license(mention)
    if reading.addresses and (against := _against(license, reading)) is not None:
        return License(None, reason=f"names {mention.deed}, but also says {against!r}")
    return license


def _license(mention: Mention) -> License:
    deed, terms = mention.deed, TERMS[mention.deed.family]
    if not mention.stated:
        return _unusable(deed, f"shows {deed} without stating it: {mention.form}")
    if deed.version is None and deed.family not in UNVERSIONED:
        return _unusable(deed, f"names {deed.family} without a version: attribution must name the exact licence")
    reason = mention.form if terms.bucket != "none" else f"{mention.form}, of a kind that is not used here: {deed}"
    return License(
        _spdx(deed), deed.family, deed.version, deed.jurisdiction,
        terms.commercial, terms.derivatives, terms.attribution, terms.share_alike, terms.bucket, reason,
    )  # fmt: skip


def _unusable(deed: Deed, reason: str) -> License:
    """A licence that is not quite named: what it forbids and requires is kept, what it permits is not claimed."""
    terms = TERMS[deed.family]
    return License(
        None, deed.family, deed.version, deed.jurisdiction,
        terms.commercial and None, terms.derivatives and None, terms.attribution or None, terms.share_alike or None, "none", reason,
    )  # fmt: skip


def _spdx(deed: Deed) -> str | None:
    if deed.family in SPDX_OF:
        return SPDX_OF[deed.family] if deed.version != "2.0" else None  # sa/2.0/jp
    family = "by-nc-nd" if deed.family == "by-nd-nc" else deed.family
    if family not in FAMILIES:
        return None
    spdx = "-".join(part.upper() for part in ("cc", family, deed.version, deed.jurisdiction) if part)
    return spdx if deed.jurisdiction is None or spdx in SPDX_PORTED else None


def _distinct(mentions: list[Mention]) -> list[Mention]:
    """Without those that another one says more exactly: "CC BY" beside a deed URL of by/3.0/de, "public domain" beside CC0."""
    once = {mention.deed: mention for mention in sorted(mentions, key=lambda mention: mention.stated)}
    return [mention for deed, mention in once.items() if not any(other != deed and _includes(other, deed) for other in once)]


def _includes(exact: Deed, deed: Deed) -> bool:
    if deed.family == PUBLIC_DOMAIN:
        return exact.family in PUBLIC_TOOLS or exact.family == "publicdomain"
    same = set(exact.family.split("-")) == set(deed.family.split("-"))
    return same and deed.version in (None, exact.version) and deed.jurisdiction in (None, exact.jurisdiction)


def _strictest(mentions: list[Mention]) -> Mention | None:
    """The one licence that permits nothing which another of them does not, and requires all that they do; None when there is none."""
    ranks = {mention: _looseness(_license(mention)) for mention in mentions}
    for mention, rank in ranks.items():
        others = [other for one, other in ranks.items() if one is not mention]
        if all(other != rank and all(mine <= theirs for mine, theirs in zip(rank, other, strict=True)) for other in others):
            return mention
    return None


def _looseness(license: License) -> tuple[int, ...]:
    permitted = {False: 0, None: 1, True: 2}
    required = {True: 0, None: 1, False: 2}
    return (
        permitted[license.commercial],
        permitted[license.derivatives],
        required[license.attribution],
        required[license.share_alike],
        ("none", "ND", "NC", "C").index(license.bucket),
    )


def _against(license: License, reading: Reading) -> str | None:
    """The words beside a deed URL that speak against it."""
    if "nc" in reading.elements and license.commercial is not False:
        return "NC"
    if "nd" in reading.elements and license.derivatives is not False:
        return "ND"
    if "sa" in reading.elements and license.share_alike is not True:
        return "SA"
    speaking = [
        AGAINST,
        *([AGAINST_GRANT] if license.family in DEED_FAMILIES else []),
        *([AGAINST_COMMERCIAL] if license.commercial else []),
        *([AGAINST_CHANGES] if license.derivatives else []),
    ]
    return next((found[0] for pattern in speaking if (found := pattern.search(reading.rest))), None)


def refusal(license: License, policy: Policy) -> str | None:
    """Why an image under `license` may not be trained on under `policy`, or None when it may.

    The words are the reasons of the `rejects/` table. ND wins over NC, so that each image has one reason.
    """
    if license.bucket == "none":
        return "license_unknown"
    if license.bucket == "ND":
        return "license_noderivatives"
    if license.bucket == "NC" and policy != "noncommercial":
        return "license_noncommercial"
    if license.share_alike and policy == "permissive":
        return "license_sharealike"
    return None
