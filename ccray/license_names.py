"""What licences there are and what people call them: the tables behind `licenses.parse`.

Which deeds exist is read off the legal codes in creativecommons/creativecommons.org (docroot/legalcode); what they permit is CC's RDF
(creativecommons/cc.licenserdf); ids are those of the SPDX list 3.27; Flickr's numbers are those of flickr.photos.licenses.getInfo in 2025.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

Bucket = Literal["C", "NC", "ND", "none"]


@dataclass(frozen=True)
class Terms:
    """What a family permits and requires; `None` where nobody states it."""

    commercial: bool | None
    derivatives: bool | None
    attribution: bool | None
    share_alike: bool | None
    bucket: Bucket


@dataclass(frozen=True)
class Deed:
    """One licence, or one public-domain statement, by name; `version` is None where the text tells none or there is none."""

    family: str
    version: str | None = None
    jurisdiction: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.family, self.version, self.jurisdiction) if part)


# Public-domain statements that are not Creative Commons': nobody grants anything in them, so no permission is claimed.
NO_KNOWN_COPYRIGHT, US_GOVERNMENT, PUBLIC_DOMAIN = "no-known-copyright", "us-government-work", "public-domain"
# rightsstatements.org's others: in copyright, not evaluated, or free only in one country or under conditions; none of them may be used.
OTHER_STATEMENTS = {
    code.lower(): code for code in ("InC", "InC-OW-EU", "InC-EDU", "InC-NC", "InC-RUU", "NoC-CR", "NoC-NC", "NoC-OKLR", "NoC-US", "CNE", "UND")
}

_SAYS_NOTHING = Terms(None, None, None, None, "none")
_SOFTWARE = Terms(True, True, False, False, "none")
TERMS: dict[str, Terms] = {
    "by": Terms(True, True, True, False, "C"),
    "by-sa": Terms(True, True, True, True, "C"),
    "by-nc": Terms(False, True, True, False, "NC"),
    "by-nc-sa": Terms(False, True, True, True, "NC"),
    "by-nd": Terms(True, False, True, False, "ND"),
    "by-nc-nd": Terms(False, False, True, False, "ND"),
    "by-nd-nc": Terms(False, False, True, False, "ND"),  # as 1.0 was called
    "nd": Terms(True, False, False, False, "ND"),
    "nc": Terms(False, True, False, False, "NC"),
    "nd-nc": Terms(False, False, False, False, "ND"),
    "nc-sa": Terms(False, True, False, True, "NC"),
    "sa": Terms(True, True, False, True, "none"),  # retired 2004; C is kept for by, by-sa and the public domain
    "sampling": Terms(True, True, True, False, "none"),  # parts only, and not in advertising: the RDF has no word for it
    "sampling+": Terms(True, True, True, False, "none"),
    "nc-sampling+": Terms(False, True, True, False, "none"),
    "devnations": Terms(False, True, False, False, "none"),  # prohibits use in high-income nations
    "zero": Terms(True, True, False, False, "C"),
    "mark": Terms(True, True, False, False, "C"),
    "publicdomain": Terms(True, True, False, False, "C"),
    "certification": Terms(True, True, False, False, "C"),
    "gpl": replace(_SOFTWARE, share_alike=True),
    "lgpl": replace(_SOFTWARE, share_alike=True),
    "bsd": _SOFTWARE,
    "mit": _SOFTWARE,
    NO_KNOWN_COPYRIGHT: replace(_SAYS_NOTHING, bucket="C"),
    US_GOVERNMENT: replace(_SAYS_NOTHING, bucket="C"),
    PUBLIC_DOMAIN: replace(_SAYS_NOTHING, bucket="C"),
    **dict.fromkeys(OTHER_STATEMENTS, _SAYS_NOTHING),
    "inc-nc": replace(_SAYS_NOTHING, commercial=False),
    "noc-nc": replace(_SAYS_NOTHING, commercial=False),
}

FAMILIES = ("by", "by-sa", "by-nc", "by-nc-sa", "by-nd", "by-nc-nd")
# Ported versions by jurisdiction; "-" is the unported, generic or international one.
_PORTS = {
    "1.0": "- fi il nl",
    "2.0": "- at au be br ca cl de es fr hr it jp kr nl pl tw uk za",
    "2.1": "au ca es jp",
    "2.5": "- ar au bg br ca ch cn co dk es hr hu il in it mk mt mx my nl pe pl pt scotland se si tw za",
    "3.0": "- am at au az br ca ch cl cn cr cz de ec ee eg es fr ge gr gt hk hr ie igo it lu nl no nz ph pl pr pt ro rs sg th tw ug us ve vn za",
    "4.0": "-",
}
_RETIRED = ("nd", "nc", "sa", "nd-nc", "nc-sa")
_OTHERS = {
    **{(family, "1.0"): "- fi nl" for family in _RETIRED},
    **{(family, "2.0"): "jp" for family in _RETIRED},
    ("sampling", "1.0"): "- br tw",
    ("sampling+", "1.0"): "- br de tw",
    ("nc-sampling+", "1.0"): "- tw",
    ("devnations", "2.0"): "-",
    ("gpl", "2.0"): "- pt",
    ("lgpl", "2.1"): "- pt",
    ("zero", "1.0"): "-",
    ("mark", "1.0"): "-",
    ("certification", "1.0"): "us",
}
UNVERSIONED = ("publicdomain", "bsd", "mit", NO_KNOWN_COPYRIGHT, US_GOVERNMENT, PUBLIC_DOMAIN, *OTHER_STATEMENTS)
ONLY_VERSION = {"zero": "1.0", "mark": "1.0"}  # a name without a version can mean no other


def _family(family: str, version: str) -> str:
    return "by-nd-nc" if (family, version) == ("by-nc-nd", "1.0") else family


DEEDS = frozenset(
    [
        Deed(_family(family, version), version, None if port == "-" else port)
        for family in FAMILIES
        for version in _PORTS
        for port in _PORTS[version].split()
    ]
    + [Deed(family, version, None if port == "-" else port) for (family, version), ports in _OTHERS.items() for port in ports.split()]
    + [Deed(family) for family in UNVERSIONED]
)
DEED_FAMILIES = frozenset(TERMS) - {NO_KNOWN_COPYRIGHT, US_GOVERNMENT, PUBLIC_DOMAIN, *OTHER_STATEMENTS}  # all on creativecommons.org
PUBLIC_TOOLS = frozenset(("zero", "mark", "certification"))
PORTS = frozenset(deed.jurisdiction for deed in DEEDS if deed.jurisdiction)

_SPDX_PORTS = {
    "BY-2.5": "AU",
    "BY-3.0": "AT AU DE IGO NL US",
    "BY-NC-3.0": "DE",
    "BY-NC-ND-3.0": "DE IGO",
    "BY-NC-SA-2.0": "DE FR UK",
    "BY-NC-SA-3.0": "DE IGO",
    "BY-ND-3.0": "DE",
    "BY-SA-2.0": "UK",
    "BY-SA-2.1": "JP",
    "BY-SA-3.0": "AT DE IGO",
}
SPDX_PORTED = frozenset(f"CC-{name}-{port}" for name, ports in _SPDX_PORTS.items() for port in ports.split())
SPDX_OF = {
    "zero": "CC0-1.0",
    "mark": "CC-PDM-1.0",
    "publicdomain": "CC-PDDC",
    "certification": "CC-PDDC",  # the same text
    "sa": "CC-SA-1.0",
    US_GOVERNMENT: "LicenseRef-scancode-us-govt-public-domain",
    PUBLIC_DOMAIN: "LicenseRef-scancode-public-domain",
    NO_KNOWN_COPYRIGHT: "LicenseRef-ccray-no-known-copyright",
}

# Where a public-domain statement is explained; `licenses.parse` reads these addresses as the statement.
STATEMENT_URLS = {
    NO_KNOWN_COPYRIGHT: "http://rightsstatements.org/vocab/NKC/1.0/",
    US_GOVERNMENT: "https://www.usa.gov/government-copyright",
    **{family: f"http://rightsstatements.org/vocab/{code}/1.0/" for family, code in OTHER_STATEMENTS.items()},
}
STATEMENT_PATHS = {
    "flickr.com/commons/usage": NO_KNOWN_COPYRIGHT,
    "usa.gov/copyright.shtml": US_GOVERNMENT,
    "usa.gov/government-copyright": US_GOVERNMENT,
    "usa.gov/government-works": US_GOVERNMENT,
    "usa.gov/publicdomain/label/1.0": US_GOVERNMENT,
    **{f"rightsstatements.org/{page}/nkc/1.0": NO_KNOWN_COPYRIGHT for page in ("vocab", "page")},
    **{f"rightsstatements.org/{page}/{family}/1.0": family for page in ("vocab", "page") for family in OTHER_STATEMENTS},
}

# Flickr's numbers, which COCO and many tables made from Flickr keep.
FLICKR: dict[str, Deed | None] = {
    "0": None,  # all rights reserved
    **{str(number): Deed(family, "2.0") for number, family in enumerate(("by-nc-sa", "by-nc", "by-nc-nd", "by", "by-sa", "by-nd"), 1)},
    "7": Deed(NO_KNOWN_COPYRIGHT),
    "8": Deed(US_GOVERNMENT),
    "9": Deed("zero", "1.0"),
    "10": Deed("mark", "1.0"),
    **{str(number): Deed(family, "4.0") for number, family in enumerate(("by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd"), 11)},
}

# Whole texts, lower case, punctuation as single blanks. Flickr's and YFCC100M's names mean 2.0: they are older than 4.0 on Flickr.
WHOLE_TEXTS = {
    "attribution license": Deed("by", "2.0"),
    "attribution sharealike license": Deed("by-sa", "2.0"),
    "attribution noncommercial license": Deed("by-nc", "2.0"),
    "attribution noncommercial sharealike license": Deed("by-nc-sa", "2.0"),
    "attribution noderivs license": Deed("by-nd", "2.0"),
    "attribution noncommercial noderivs license": Deed("by-nc-nd", "2.0"),
    "no known copyright restrictions": Deed(NO_KNOWN_COPYRIGHT),
    "no known copyright": Deed(NO_KNOWN_COPYRIGHT),
    "no known restrictions": Deed(NO_KNOWN_COPYRIGHT),
    "no known restrictions on publication": Deed(NO_KNOWN_COPYRIGHT),
    "licenseref ccray no known copyright": Deed(NO_KNOWN_COPYRIGHT),
    "nkc": Deed(NO_KNOWN_COPYRIGHT),
    "united states government work": Deed(US_GOVERNMENT),
    "us government work": Deed(US_GOVERNMENT),
    "u s government work": Deed(US_GOVERNMENT),
    "u s government works": Deed(US_GOVERNMENT),
    "us government works": Deed(US_GOVERNMENT),
    "work of the united states government": Deed(US_GOVERNMENT),
    "pd usgov": Deed(US_GOVERNMENT),
    "licenseref scancode us govt public domain": Deed(US_GOVERNMENT),
    "public domain": Deed(PUBLIC_DOMAIN),
    "in the public domain": Deed(PUBLIC_DOMAIN),
    "pd": Deed(PUBLIC_DOMAIN),
    "pd self": Deed(PUBLIC_DOMAIN),  # Wikimedia: released by its author
    "pd author": Deed(PUBLIC_DOMAIN),
    "pd user": Deed(PUBLIC_DOMAIN),
    "licenseref scancode public domain": Deed(PUBLIC_DOMAIN),
    "cc pddc": Deed("publicdomain"),
    "creative commons public domain dedication and certification": Deed("publicdomain"),
    "copyright only dedication based on united states law or public domain certification": Deed("publicdomain"),
    **{family.replace("-", " "): Deed(family) for family in OTHER_STATEMENTS if family.startswith(("inc", "noc"))},
}

# Words that stand for a part of a licence's name, in the languages that catalogs carry them in. Longer ones first.
_SPELT = {
    "cc": ("creative[ -]?commons?", "クリエイティブ・?コモンズ"),
    "by": ("attribution", "namensnennung", "atribuci[oó]n", "reconocimiento", "attribuzione", "atribui[cç][aã]o", "naamsvermelding", "表示"),
    "nc": (
        "non?[ -]{0,2}commercial(?: use)?",
        "nicht[ -]?kommerziell",
        "pas d['’]utilisation commerciale",
        "uso n[aã]o[ -]?comercial",
        "n[aã]o[ -]?comercial",
        "no[ -]?comercial",
        "non[ -]?commerciale",
        "niet[ -]?commercieel",
        "非営利",
    ),
    "sa": (
        "share[ -]{0,2}alike",
        "weitergabe unter gleichen bedingungen",
        "partage dans les m[eê]mes conditions",
        "compartir[ -]?igual",
        "condividi allo stesso modo",
        "compartilha[ -]?igual",
        "gelijk[ -]?delen",
        "継承",
    ),
    "nd": (
        "no[ -]{0,2}deriv(?:ative|ate)?s?(?: works?)?",
        "keine[ -]?bearbeitung(?:en)?",
        "pas de modification",
        "sin[ -]?(?:obra[ -]?)?derivad[ao]s?",
        "non opere derivate",
        "sem[ -]?deriva[cç][oõ]es",
        "geen[ -]?afgeleide[ -]?werken",
        "改変禁止",
    ),
    "sampling+": (r"sampling[ -]?(?:plus|\+)",),
    "devnations": ("developing nations(?: license)?",),
    "pdm": ("public[ -]?domain[ -]?mark", "pd[ -]mark", "パブリック・ドメイン・マーク"),
    "pd": ("public[ -]?domain", "パブリック・ドメイン"),
    "cc0": ("cc[ _-]{0,3}(?:0|zero)",),
    "unported": ("non[ -]transposé", "não adaptada"),
}
SPELT = tuple((re.compile(rf"(?<![^\W_])(?:{'|'.join(spellings)})(?![^\W_])"), f" {word} ") for word, spellings in _SPELT.items())

ELEMENTS = frozenset(("by", "nc", "nd", "sa", "sampling", "sampling+", "devnations"))
FAMILY_OF = {frozenset(family.split("-")): family for family in (*FAMILIES, *_RETIRED, "sampling", "sampling+", "nc-sampling+", "devnations")}
NAMED = {"cc0": "zero", "pdm": "mark", "pd": PUBLIC_DOMAIN}
VERSION_OF = {version: version for version in _PORTS} | {"3": "3.0", "4": "4.0"}  # "2" could be 2.0, 2.1 or 2.5

# Words that change nothing around a licence's name. Any other word makes a text without a deed URL unknown.
_FILLERS = {
    "licence": "licence license licences licenses deed legal code legalcode dedication",
    "scope": "international unported generic universal worldwide",
    "other languages": "lizenz licencia licenza licença licentie internacional internazionale internationaal 一般 非移植 国際 ライセンス 全世界",
    "grammar": "a an the this is are of under to via available licensed licenced released published shared terms some rights reserved",
    "thing": "work works image images photo photos photograph photographs picture pictures file url spdx identifier id",
}
FILLERS = frozenset(word for words in _FILLERS.values() for word in words.split())
# Between a name and its version only these: "BY-A 3.0" is not BY.
INNER_FILLERS = frozenset(word for kind in ("licence", "scope", "other languages") for word in _FILLERS[kind].split())
NOISE = frozenset("-_/.:,;()[]<>\"'“”‘’«»・·|©")
BETWEEN = frozenset(("or", "and", "&", "oder", "und", "ou", "et", "o", "y", "e"))

JURISDICTION_OF = {
    "armenia": "am", "argentina": "ar", "austria": "at", "australia": "au", "azerbaijan": "az", "belgium": "be", "bulgaria": "bg",
    "brazil": "br", "canada": "ca", "switzerland": "ch", "chile": "cl", "china mainland": "cn", "mainland china": "cn", "colombia": "co",
    "costa rica": "cr", "czech republic": "cz", "germany": "de", "denmark": "dk", "ecuador": "ec", "estonia": "ee", "egypt": "eg", "spain": "es",
    "finland": "fi", "france": "fr", "georgia": "ge", "greece": "gr", "guatemala": "gt", "hong kong": "hk", "croatia": "hr", "hungary": "hu",
    "ireland": "ie", "intergovernmental organization": "igo", "israel": "il", "india": "in", "italy": "it", "japan": "jp", "korea": "kr",
    "south korea": "kr", "luxembourg": "lu", "macedonia": "mk", "malta": "mt", "mexico": "mx", "malaysia": "my", "netherlands": "nl",
    "norway": "no", "new zealand": "nz", "peru": "pe", "philippines": "ph", "poland": "pl", "puerto rico": "pr", "portugal": "pt",
    "romania": "ro", "serbia": "rs", "uk: scotland": "scotland", "sweden": "se", "singapore": "sg", "slovenia": "si", "thailand": "th",
    "taiwan": "tw", "uganda": "ug", "uk: england & wales": "uk", "uk: england and wales": "uk", "england and wales": "uk",
    "england & wales": "uk", "united kingdom": "uk", "united states": "us", "venezuela": "ve", "vietnam": "vn", "south africa": "za", "日本": "jp",
}  # fmt: skip
COUNTRY = re.compile(rf"(?<=\d) (?:{'|'.join(sorted(JURISDICTION_OF, key=len, reverse=True))})(?![^\W_])")

# Words beside a deed URL that speak against it: against any licence, against one that permits commercial use, or changes.
AGAINST = re.compile(
    r"(?<![^\W_])(?:all rights reserved|alle rechte|tous droits|todos los derechos|tutti i diritti|not|no longer|never|except\w*|unless|exclud\w*|excluding"
    r"|without|permission|former\w*|previous\w*|revok\w*|expired|proprietary|prohibit\w*|forbidden|personal use|private use|educational|gfdl|gnu|l?gpl"
    r"|mit license|apache|free art|copyrighted)(?![^\W_])|n't|n’t|無断|禁止|禁转|版权所有|版權所有"
)
AGAINST_GRANT = re.compile("no known|copyright restriction|government work")  # a statement that there is nothing to license
AGAINST_COMMERCIAL = re.compile("commerc|comerc|kommerz|kommerc|komerc|коммерч|商用|商業|营利|營利|営利")
AGAINST_CHANGES = re.compile("deriv|modificat|modifica[cç]|bearbeit|altération|改変|改作|변경")
