"""Licences against Creative Commons' own list and RDF, and policies against their promise."""

import csv
import json
from pathlib import Path

import pytest

from ccray import licenses


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        ("CC0-1.0", "CC0-1.0"),
        ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
        ("CC BY 4.0", "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by-nc/2.0/", "CC-BY-NC-2.0"),
        ("HTTPS://WWW.CREATIVECOMMONS.ORG/licenses/by/4.0/legalcode.de", "CC-BY-4.0"),
        ("//creativecommons.org/licenses/by/2.1/jp/deed.ja", "CC-BY-2.1-JP"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/deed.en", "CC-PDM-1.0"),
        ("Attribution-NonCommercial-NoDerivs License", "CC-BY-NC-ND-2.0"),
        ("", None),
        ("all rights reserved", None),
        ("https://notcreativecommons.org/licenses/by/4.0/", None),
        ("https://creativecommons.org/licenses/by/", None),
        ("CC-BY-9.9", None),
    ],
)
def test_what_catalogs_write(text: str, spdx: str | None) -> None:
    assert licenses.parse(text).spdx == spdx


@pytest.mark.parametrize(
    ("spdx", "permissive", "commercial", "noncommercial"),
    [
        ("CC0-1.0", None, None, None),
        ("CC-BY-2.0", None, None, None),
        ("CC-BY-SA-4.0", "license_sharealike", None, None),
        ("CC-BY-NC-2.0", "license_noncommercial", "license_noncommercial", None),
        ("CC-BY-NC-SA-2.0", "license_noncommercial", "license_noncommercial", None),
        ("CC-BY-ND-2.0", "license_noderivatives", "license_noderivatives", "license_noderivatives"),
        ("CC-BY-NC-ND-2.0", "license_noderivatives", "license_noderivatives", "license_noderivatives"),
        ("who knows", "license_unknown", "license_unknown", "license_unknown"),
    ],
)
def test_policies(spdx: str, permissive: str | None, commercial: str | None, noncommercial: str | None) -> None:
    license = licenses.parse(spdx)
    assert [licenses.refusal(license, policy) for policy in licenses.POLICIES] == [permissive, commercial, noncommercial]


def test_every_deed_of_the_six_families_has_its_spdx_id(shared_data: Path) -> None:
    with (shared_data / "licences" / "cc-legal-tools_unported.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["UNIT"] in licenses.FAMILIES]
    assert len(rows) >= 20
    for row in rows:
        assert licenses.parse(row["CANONICAL_URL"]).spdx == row["SPDX_IDENTIFIER"]


def test_permissions_are_those_of_the_rdf(shared_data: Path) -> None:
    checked = 0
    for line in (shared_data / "licences" / "cc_rdf_unported.jsonl").read_text().splitlines():
        truth = json.loads(line)
        license = licenses.parse(truth["uri"])
        if license.family not in licenses.FAMILIES or license.spdx is None:
            continue
        checked += 1
        assert license.commercial == ("CommercialUse" not in truth["prohibits"]), truth["uri"]
        assert license.derivatives == ("DerivativeWorks" in truth["permits"]), truth["uri"]
        assert license.share_alike == ("ShareAlike" in truth["requires"]), truth["uri"]
        assert license.attribution == ("Attribution" in truth["requires"]), truth["uri"]
    assert checked >= 20


def test_the_deed_of_a_licence_reads_as_that_licence() -> None:
    for text in ("CC-BY-NC-SA-3.0", "CC-BY-2.1-JP", "CC0-1.0"):
        license = licenses.parse(text)
        assert license.url is not None
        assert licenses.parse(license.url).spdx == text
