"""Licences: from what a catalog says to an SPDX id and what it permits.

The permissions are those of Creative Commons' own RDF (cc.licenserdf). A text that is not recognised is `UNKNOWN`: it permits nothing.
Of two possible readings the stricter one is taken, and ND never allows training, whatever the policy.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import unquote

Policy = Literal["permissive", "commercial", "noncommercial"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
Bucket = Literal["C", "NC", "ND", "none"]


@dataclass(frozen=True)
class License:
    """One licence and what it permits; permissions are `None` when unknown."""

    spdx: str | None
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
    def url(self) -> str | None:
        """The canonical deed."""
        if self.family is None:
            return None
        section = "publicdomain" if self.family in PUBLIC_DOMAIN else "licenses"
        parts = [section, self.family, self.version or "", self.jurisdiction or ""]
        return f"https://creativecommons.org/{'/'.join(part for part in parts if part)}/"


PUBLIC_DOMAIN = {"zero": "CC0", "mark": "PDM", "certification": "PDDC"}
FAMILIES = ("by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd")
VERSIONS = ("1.0", "2.0", "2.1", "2.5", "3.0", "4.0")

# Licences as Flickr and YFCC100M name them (API names, all 2.0 before 2025), Open Images and common prose.
NAMES = {
    "attribution license": ("by", "2.0"),
    "attribution-sharealike license": ("by-sa", "2.0"),
    "attribution-noncommercial license": ("by-nc", "2.0"),
    "attribution-noncommercial-sharealike license": ("by-nc-sa", "2.0"),
    "attribution-noderivs license": ("by-nd", "2.0"),
    "attribution-noncommercial-noderivs license": ("by-nc-nd", "2.0"),
    "public domain dedication (cc0)": ("zero", "1.0"),
    "public domain mark": ("mark", "1.0"),
}

DEED = re.compile(
    r"(?:^|//|\.|\b)creativecommons\.org/+(?P<section>licen[sc]es|publicdomain)/+(?P<family>[a-z+-]+)"
    r"(?:/+(?P<version>\d\.\d))?(?:/+(?P<jurisdiction>[a-z]{2,8}))?(?:/|[^a-z0-9]|$)"
)
SPDX = re.compile(r"^cc[ _-]?(?P<family>by(?:-nc)?(?:-sa|-nd)?)[ _-](?P<version>\d\.\d)(?:[ _-](?P<jurisdiction>[a-z]{2,3}))?$")
CC0 = re.compile(r"^cc[ _-]?(?:0|zero)(?:[ _-]1\.0)?$")
NOT_JURISDICTIONS = {"deed", "legalcode", "rdf"}


def parse(text: str) -> License:
    """The licence that `text` names: an SPDX id, a deed or legal-code URL, or a catalog's usual name.

    Never raises: what is not recognised comes back with `spdx=None` and the reason.
    """
    plain = " ".join(unquote(text).strip().lower().split())
    if not plain:
        return License(None, reason="empty licence statement")
    if plain in NAMES:
        return _known(*NAMES[plain], None, f"catalog name {text.strip()!r}")
    if CC0.match(plain):
        return _known("zero", "1.0", None, "SPDX id")
    if found := SPDX.match(plain):
        return _known(found["family"], found["version"], found["jurisdiction"], "SPDX id")
    if found := DEED.search(plain):
        return _from_deed(found)
    if plain in {"pdm", "pdm-1.0", "publicdomain mark 1.0"}:
        return _known("mark", "1.0", None, "public domain mark")
    return License(None, reason=f"not a recognised licence: {text.strip()[:80]!r}")


def _from_deed(found: re.Match[str]) -> License:
    family, version, jurisdiction = found["family"], found["version"], found["jurisdiction"]
    if jurisdiction in NOT_JURISDICTIONS:
        jurisdiction = None
    if version is None:
        return License(None, reason=f"a deed without a version: {found.group(0)!r}")
    return _known(family, version, jurisdiction, "deed URL")


def _known(family: str, version: str, jurisdiction: str | None, reason: str) -> License:
    if family in PUBLIC_DOMAIN:
        spdx = "CC0-1.0" if family == "zero" else f"CC-{PUBLIC_DOMAIN[family]}-{version}"
        return License(spdx, family, version, jurisdiction, True, True, False, False, "C", reason)
    if family not in FAMILIES or version not in VERSIONS:
        return License(None, family, version, jurisdiction, reason=f"not a Creative Commons licence that we know: {family} {version}")
    parts = family.split("-")
    bucket: Bucket = "ND" if "nd" in parts else "NC" if "nc" in parts else "C"
    suffix = f"-{jurisdiction.upper()}" if jurisdiction else ""
    return License(
        spdx=f"CC-{family.upper()}-{version}{suffix}",
        family=family,
        version=version,
        jurisdiction=jurisdiction,
        commercial="nc" not in parts,
        derivatives="nd" not in parts,
        attribution=True,
        share_alike="sa" in parts,
        bucket=bucket,
        reason=reason,
    )


def refusal(license: License, policy: Policy) -> str | None:
    """Why an image under `license` may not be trained on under `policy`, or None when it may.

    The words are the reasons of the `rejects/` table. ND wins over NC, so that each image has one reason.
    """
    if license.spdx is None or license.bucket == "none":
        return "license_unknown"
    if license.bucket == "ND":
        return "license_noderivatives"
    if license.bucket == "NC" and policy != "noncommercial":
        return "license_noncommercial"
    if license.share_alike and policy == "permissive":
        return "license_sharealike"
    return None
