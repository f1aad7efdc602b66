"""Licences against Creative Commons' own list and RDF, links as found on the web, real catalogs, and the command."""

import collections
import csv
import gzip
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from license_expression import get_spdx_licensing

from ccray import license_names, licenses, schema
from ccray.__main__ import main
from ccray.license_names import DEEDS
from ccray.licenses import License, parse

FIELDS = ["input", "spdx", "family", "version", "jurisdiction", "commercial", "derivatives", "attribution", "share_alike", "bucket", "reason"]


def looseness(license: License) -> tuple[int, ...]:
    """How much a licence lets one do, one number an axis: permissions, duties not asked for, and use."""
    permitted, required = {False: 0, None: 1, True: 2}, {True: 0, None: 1, False: 2}
    return (
        permitted[license.commercial],
        permitted[license.derivatives],
        required[license.attribution],
        required[license.share_alike],
        ["none", "ND", "NC", "C"].index(license.bucket),
    )


def claims(license: License) -> set[str]:
    """What a licence says may be done."""
    said = {"commercial": license.commercial is True, "derivatives": license.derivatives is True}
    said |= {"no attribution": license.attribution is False, "no share alike": license.share_alike is False}
    return {name for name, holds in said.items() if holds}


# What catalogs write

# The markup that Creative Commons' own chooser gives out: button, title, author, deed.
CHOOSER = """<a rel="license" href="http://creativecommons.org/licenses/by-sa/3.0/"><img alt="Creative Commons License" style="border-width:0"
src="https://i.creativecommons.org/l/by-sa/3.0/88x31.png" /></a><br /><span xmlns:dct="http://purl.org/dc/terms/" property="dct:title">Boats</span> by
<a xmlns:cc="http://creativecommons.org/ns#" href="https://example.org/ann" rel="cc:attributionURL">Ann</a> is licensed under a
<a rel="license" href="http://creativecommons.org/licenses/by-sa/3.0/">Creative Commons Attribution-ShareAlike 3.0 Unported License</a>."""


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        ("CC0-1.0", "CC0-1.0"),
        ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
        ("CC BY 4.0", "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by-nc/2.0/", "CC-BY-NC-2.0"),
        ("HTTPS://WWW.CREATIVECOMMONS.ORG/licenses/by/4.0/legalcode.de", "CC-BY-4.0"),
        ("HTTP://CreativeCommons.org.:80//licences/BY-SA/3.0//Deed.sr_LATN?x=1#y", "CC-BY-SA-3.0"),
        ("//creativecommons.org/licenses/by-sa/2.1/jp/deed.ja", "CC-BY-SA-2.1-JP"),
        ("https%3A%2F%2Fcreativecommons.org%2Flicenses%2Fby%2F4.0%2F", "CC-BY-4.0"),
        ("http://http://creativecommons.org/licenses/by/4.0/)", "CC-BY-4.0"),
        (" http://creativecommons.org /licenses/by/4.0/", "CC-BY-4.0"),
        ('<a rel="license" href="http://creativecommons.org/licenses/by-sa/3.0/at/">CC BY-SA 3.0</a>', "CC-BY-SA-3.0-AT"),
        ("&lt;a href=&quot;http://creativecommons.org/licenses/by/2.0/&quot;&gt;CC BY&lt;/a&gt", "CC-BY-2.0"),
        (CHOOSER, "CC-BY-SA-3.0"),
        ("https://creativecommons.org/licenses/cc0/1.0/", "CC0-1.0"),  # Openverse, 2019
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/deed.en", "CC-PDM-1.0"),
        ("https://creativecommons.org/publicdomain/certification/1.0/us/", "CC-PDDC"),
        ("Attribution-NonCommercial-NoDerivs License", "CC-BY-NC-ND-2.0"),  # Flickr, YFCC100M
        ("Attribution License", "CC-BY-2.0"),
        ("Public Domain Dedication (CC0)", "CC0-1.0"),
        ("Public Domain Mark", "CC-PDM-1.0"),
        ("No known copyright restrictions", "LicenseRef-ccray-no-known-copyright"),
        ("http://flickr.com/commons/usage/", "LicenseRef-ccray-no-known-copyright"),
        ("http://rightsstatements.org/vocab/NKC/1.0/", "LicenseRef-ccray-no-known-copyright"),
        ("United States Government Work", "LicenseRef-scancode-us-govt-public-domain"),
        ("http://www.usa.gov/copyright.shtml", "LicenseRef-scancode-us-govt-public-domain"),
        ("by-sa 2.0", "CC-BY-SA-2.0"),  # Openverse: code and version
        ("cc0", "CC0-1.0"),
        ("pdm", "CC-PDM-1.0"),
        ("CC BY-SA 3.0 de", "CC-BY-SA-3.0-DE"),  # Wikimedia
        ("{{cc-by-sa-4.0}}", "CC-BY-SA-4.0"),
        ("{{ cc-zero }}", "CC0-1.0"),
        ("{{cc-by-4.0|cc-by-nc-4.0}}", "CC-BY-NC-4.0"),
        (r"http:\/\/creativecommons.org\/licenses\/by-nc\/2.0\/", "CC-BY-NC-2.0"),  # JSON
        ("CC BY-SA 4.0, CC BY 4.0", "CC-BY-SA-4.0"),  # one is the stricter in everything
        ("Public domain", "LicenseRef-scancode-public-domain"),
        ("CC_BY_NC_4_0", "CC-BY-NC-4.0"),  # GBIF
        ("Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)", "CC-BY-SA-4.0"),
        ("Creative Commons Zero v1.0 Universal", "CC0-1.0"),
        ("Attribution 3.0 Germany", "CC-BY-3.0-DE"),
        ("表示-非営利-継承 4.0 国際", "CC-BY-NC-SA-4.0"),
        ("Namensnennung - Nicht kommerziell 4.0 International", "CC-BY-NC-4.0"),
        ("ＣＣ ＢＹ\u200b ４．０", "CC-BY-4.0"),
        ("CC-BY-4.0 OR CC-BY-NC-4.0", "CC-BY-NC-4.0"),
    ],
)
def test_what_catalogs_write(text: str, spdx: str) -> None:
    assert parse(text).spdx == spdx
    assert parse(text).bucket != "none"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "all rights reserved",
        "0",
        "17",
        "unknown",
        "https://notcreativecommons.org/licenses/by/4.0/",
        "https://creativecommons.org.evil.example/licenses/by/4.0/",
        "https://creativecommons.org@evil.example/licenses/by/4.0/",
        "https://evil.example/?next=https://creativecommons.org/licenses/by/4.0/",
        "https://i.creativecommons.org/l/by/4.0/88x31.png",  # a button shows, and states nothing
        "https://creativecommons.org/licenses/by/",
        "https://creativecommons.org/licenses/by/9.9/",
        "https://creativecommons.org/licenses/by/2.1/",  # 2.1 was only ported
        "https://creativecommons.org/licenses/by/4.0/de/",  # 4.0 never was
        "https://creativecommons.org/licenses/by/3.0/xx/",
        "https://creativecommons.org/licenses/by/4.0-nc/",
        "https://creativecommons.org/publicdomain/by/4.0/",
        "https://creativecommons.org/licenses/public-domain/",
        "https://creativecommons.org/licenses/by/4.0/ for non-commercial use",
        "https://creativecommons.org/licenses/by/4.0/ all rights reserved",
        "https://creativecommons.org/licenses/by/4.0/ and https://creativecommons.org/licenses/by/3.0/",
        "https://creativecommons.org/licenses/by-nc/4.0/ https://creativecommons.org/licenses/by-nd/4.0/",
        "CC-BY-9.9",
        "CC-BY-4.0+",
        "CC BY 4.0*",
        "CC BY 4.0?",
        "CC BY 4.0 except logos",
        "CC BY- 4.0",
        "CC-BY-4.0-NC",
        "СС ВУ 4.0",  # Cyrillic
        "CC BY",
        "by-nc",
        "CC BY-SA 2.5,2.0,1.0",
        "4 https://creativecommons.org/ns",
        "CC BY 4.0 see https://creativecommons.org/policies",
        "GFDL",
        "GFDL, CC BY-SA 3.0",
        "CC-BY-4.0 AND MIT",
        "PD-US",
        "Public domain in the United States",
        "public domain, CC BY 4.0",
        "http://rightsstatements.org/vocab/InC/1.0/",
        "http://rightsstatements.org/vocab/NoC-US/1.0/",
        "http://www.europeana.eu/rights/rr-f/",
        "CC BY 4.0 " * 2000,
    ],
)
def test_honest_unknowns_permit_nothing(text: str) -> None:
    license = parse(text)
    assert (license.spdx, license.id, license.bucket) == (None, None, "none")
    assert license.reason
    assert not claims(license)
    assert {licenses.refusal(license, policy) for policy in licenses.POLICIES} == {schema.Reject.LICENSE_UNKNOWN}


def test_flickr_numbers() -> None:
    two = ["BY-NC-SA", "BY-NC", "BY-NC-ND", "BY", "BY-SA", "BY-ND"]
    four = ["BY", "BY-SA", "BY-ND", "BY-NC", "BY-NC-SA", "BY-NC-ND"]
    assert [parse(str(number)).spdx for number in range(1, 7)] == [f"CC-{family}-2.0" for family in two]
    assert [parse(str(number)).family for number in range(7, 11)] == ["no-known-copyright", "us-government-work", "zero", "mark"]
    assert [parse(str(number)).spdx for number in range(11, 17)] == [f"CC-{family}-4.0" for family in four]


@pytest.mark.parametrize("text", ["7", "8", "Public domain"])
def test_statements_grant_nothing_and_are_not_cc0(text: str) -> None:
    license = parse(text)
    assert (license.commercial, license.derivatives, license.attribution, license.share_alike) == (None, None, None, None)
    assert license.bucket == "C"
    assert license.family not in ("zero", "mark")


def test_a_licence_without_a_version_keeps_what_it_forbids() -> None:
    license = parse("CC BY-NC-SA")
    assert (license.family, license.version, license.url, license.bucket) == ("by-nc-sa", None, None, "none")
    assert (license.commercial, license.derivatives, license.attribution, license.share_alike) == (False, None, True, True)
    assert "without a version" in license.reason


# Truths


def rows_of_the_list(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "licences" / "cc-legal-tools_unported.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_deed_of_the_list_under_all_its_names(shared_data: Path) -> None:
    rows = rows_of_the_list(shared_data)
    assert len(rows) == 41
    for row in rows:
        for text in filter(None, (row["CANONICAL_URL"], row["IDENTIFIER"], row["TITLE"], row["SPDX_IDENTIFIER"])):
            license = parse(text)
            assert (license.spdx or "", license.family, license.version) == (row["SPDX_IDENTIFIER"], row["UNIT"], row["VERSION"]), text
            assert license.url == row["CANONICAL_URL"], text


def rdf(shared_data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shared_data / "licences" / "cc_rdf_unported.jsonl").read_text().splitlines()]


def path_of(truth: dict[str, Any]) -> str:
    """The family as in the deed's path."""
    return str(truth["uri"]).split("/")[4].lower()


def test_permissions_are_those_of_the_rdf(shared_data: Path) -> None:
    truths = rdf(shared_data)
    assert len(truths) == 46
    for truth in truths:
        license = parse(truth["uri"])
        assert license.family == path_of(truth), truth["uri"]
        assert license.version == truth["version"], truth["uri"]
        assert license.commercial == (not truth["prohibits"]), truth["uri"]
        assert license.derivatives == ("DerivativeWorks" in truth["permits"]), truth["uri"]
        assert license.share_alike == ("ShareAlike" in truth["requires"]), truth["uri"]
        assert license.attribution == ("Attribution" in truth["requires"]), truth["uri"]


BUCKETS = {
    "C": "by by-sa zero mark publicdomain certification no-known-copyright us-government-work public-domain",
    "NC": "by-nc by-nc-sa nc nc-sa",
    "ND": "by-nd by-nc-nd by-nd-nc nd nd-nc",
    "none": "sa sampling sampling+ nc-sampling+ devnations gpl lgpl bsd mit",
}


def test_buckets() -> None:
    bucket_of = {family: bucket for bucket, families in BUCKETS.items() for family in families.split()}
    assert set(license_names.TERMS) == set(bucket_of) | set(license_names.OTHER_STATEMENTS)
    for deed in DEEDS:
        license = licenses._license(licenses.Mention(deed, "deed URL", is_address=True))
        assert license.bucket == bucket_of.get(deed.family, "none"), deed


def test_every_licence_reads_back_from_its_url_and_its_id() -> None:
    known = get_spdx_licensing()
    emitted = set()
    for deed in DEEDS:
        license = licenses._license(licenses.Mention(deed, "deed URL", is_address=True))
        for text in filter(None, (license.url, license.id)):
            again = parse(text)
            assert (looseness(again), again.spdx, again.id) == (looseness(license), license.spdx, license.id), text
        assert license.id is not None or license.bucket == "none", deed
        assert license.id == license.spdx or str(license.id).startswith("LicenseRef-CC-"), deed
        emitted.add(license.spdx)
    assert len(DEEDS) > 500
    ours = {None, "LicenseRef-ccray-no-known-copyright"}
    assert not [spdx for spdx in emitted - ours if known.validate(spdx, strict=True).errors]


def test_every_cc_id_of_spdx_is_read() -> None:
    ids = [key for key in (str(symbol.key) for symbol in get_spdx_licensing().known_symbols.values()) if re.match(r"CC(0|-(BY|PD|SA))", key)]
    assert len(ids) >= 50
    assert [parse(key.lower()).spdx for key in ids] == ids


# Links in the wild


def named_in(link: str, truths: Iterable[dict[str, Any]]) -> set[str]:
    """All that the licence whose path stands anywhere in a link could permit, read with nothing but the RDF; {} when none does."""
    found = re.search(r"/(?:licen[cs]es|publicdomain|l|p)/([a-z+-]+)(?:/(\d\.\d))?", link.lower())
    allowed: set[str] = set()
    for truth in truths:
        if found and path_of(truth) == found[1] and truth["version"] in (found[2], None):
            allowed |= {"commercial"} - ({"commercial"} if truth["prohibits"] else set())
            allowed |= {"derivatives"} & ({"derivatives"} if "DerivativeWorks" in truth["permits"] else set())
            allowed |= set() if "Attribution" in truth["requires"] else {"no attribution"}
            allowed |= set() if "ShareAlike" in truth["requires"] else {"no share alike"}
    return allowed


PLAIN = re.compile(
    r"(?:www\.)?creativecommons\.org/licenses/(by[a-z-]*)/(\d\.\d)(?:/([a-z]{2}|igo|scotland))?/?(?:(?:deed|legalcode)[a-z._]*)?", re.IGNORECASE
)


@pytest.mark.parametrize("scheme", ["", "https://"])
def test_links_in_the_wild(shared_data: Path, scheme: str) -> None:
    links = [json.loads(line) for line in (shared_data / "licences" / "wild_licence_links.jsonl").read_text().splitlines()]
    truths = rdf(shared_data)
    ports = [truth | {"version": "2.1"} for truth in truths if truth["version"] == "2.0"]  # 2.1 was only ported
    counts: collections.Counter[str] = collections.Counter()
    for link in links:
        text = link["cc_domain"] + link["cc_license"]
        license = parse(scheme + text)
        counts[license.bucket] += 1
        assert claims(license) <= named_in(text, [*truths, *ports]), text
        if plain := PLAIN.fullmatch(text):
            assert (license.family, license.version, license.jurisdiction) == plain.groups(), text
            assert license.bucket != "none", text
    assert sum(counts.values()) == 744
    assert counts["none"] <= 260  # 185 buttons, the others pages that are no licence


# Policies


@pytest.mark.parametrize(
    ("text", "permissive", "commercial", "noncommercial"),
    [
        ("CC0-1.0", None, None, None),
        ("CC-BY-2.0", None, None, None),
        ("CC-BY-SA-4.0", "license_sharealike", None, None),
        ("CC-BY-NC-2.0", "license_noncommercial", "license_noncommercial", None),
        ("CC-BY-NC-SA-2.0", "license_noncommercial", "license_noncommercial", None),
        ("CC-BY-ND-2.0", "license_noderivatives", "license_noderivatives", "license_noderivatives"),
        ("CC-BY-NC-ND-2.0", "license_noderivatives", "license_noderivatives", "license_noderivatives"),
        ("CC ND 1.0", "license_noderivatives", "license_noderivatives", "license_noderivatives"),
        ("CC SA 1.0", "license_unknown", "license_unknown", "license_unknown"),
        ("CC SAMPLING 1.0", "license_unknown", "license_unknown", "license_unknown"),
        ("CC BY 3.0 pl", None, None, None),
        ("No known copyright restrictions", None, None, None),
        ("who knows", "license_unknown", "license_unknown", "license_unknown"),
    ],
)
def test_policies(text: str, permissive: str | None, commercial: str | None, noncommercial: str | None) -> None:
    license = parse(text)
    assert [licenses.refusal(license, policy) for policy in licenses.POLICIES] == [permissive, commercial, noncommercial]


# Catalogs


def test_the_licence_columns_of_real_catalogs(shared_data: Path) -> None:
    coco = [json.loads(line) for line in (shared_data / "coco_cc_photos" / "manifest.jsonl").read_text().splitlines()]
    for row in coco:
        by_number, by_name, by_url = parse(str(row["license_id"])), parse(row["license_name"]), parse(row["license_url"])
        assert by_number.spdx is not None
        assert by_number.spdx == by_name.spdx == by_url.spdx
    with (shared_data / "catalog_openimages_xm3600" / "image_attributions.csv").open() as file:
        assert {parse(row["License"]).spdx for row in csv.DictReader(file)} == {"CC-BY-2.0"}
    flickr = [
        photo["license"]
        for path in sorted((shared_data / "catalog_flickr_landscapes").glob("*.json"))
        for photo in json.loads(path.read_text()).values()
    ]
    assert len(flickr) == 2108
    assert all(parse(text).spdx for text in flickr)
    naturalist = gzip.decompress((shared_data / "catalog_openverse/inaturalist_s3/photos.csv.gz").read_bytes()).decode()
    stated = {row["license"] for row in csv.DictReader(io.StringIO(naturalist), delimiter="\t")}
    assert {parse(text).bucket for text in stated - {"CC0", "PD"}} == {"none"}  # iNaturalist's table leaves the version out
    pages = pq.read_table(shared_data / "catalog_commoncrawl_cc" / "part-00000.snappy.parquet", columns=["cc_domain", "cc_license"]).to_pylist()
    usable = sum(parse(f"{page['cc_domain']}{page['cc_license']}").bucket != "none" for page in pages)
    assert usable / len(pages) > 0.6


# The command


def answers(capsys: pytest.CaptureFixture[str], *texts: str) -> list[dict[str, Any]]:
    assert main(["license", *texts]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_answer_for_each_text_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["-x", "CC0-1.0", "--recipe", "", "CC BY-NC 4.0\u2028x", "--", "caf\udce9"]
    found = answers(capsys, *texts)
    assert [list(answer) for answer in found] == [FIELDS] * len(texts)
    assert [answer["input"] for answer in found] == [*texts[:-1], "caf\ufffd"]
    assert [answer["spdx"] for answer in found] == [None, "CC0-1.0", None, None, None, None, None]
    assert [answer["input"] for answer in answers(capsys, "--", "-h")] == ["-h"]


def ccray_license(data: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "ccray", "license"], input=data, capture_output=True, check=False)


def test_one_line_for_each_line_whatever_it_holds() -> None:
    lines = [
        b"CC-BY-4.0\r",
        b"",
        b"\xff\xfe",
        b"\x00CC0-1.0\x00",
        b"-4",
        b"x" * 3_000_000,
        b"\xef\xbb\xbfCC0-1.0",
        "日本".encode(),
        b"\x85\x0b\x0c",
        b"10",
    ]
    done = ccray_license(b"\n".join(lines))  # the last line has no end
    assert (done.returncode, done.stderr) == (0, b"")
    found = [json.loads(line) for line in done.stdout.decode("ascii").splitlines()]
    assert [answer["spdx"] for answer in found] == ["CC-BY-4.0", None, None, "CC0-1.0", None, None, "CC0-1.0", None, None, "CC-PDM-1.0"]
    assert found[5]["input"] == "x" * 3_000_000


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    process = subprocess.Popen([sys.executable, "-m", "ccray", "license"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdin.write(b"CC0-1.0\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["spdx"] == "CC0-1.0"
    process.stdout.close()
    try:
        for _ in range(2000):
            process.stdin.write(b"CC-BY-4.0\n")
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
