"""Entries of `CATALOGUES`, and catalogues from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from refnet_cli.errors import ConfigError, OptionsError
from refnet_cli.fetching.catalogues import CATALOGUES, choose_catalogue
from refnet_cli.fetching.http import AddressError, Policy
from refnet_cli.fetching.labels import recoding


@pytest.mark.parametrize("name", CATALOGUES)
def test_entries_are_complete(name: str) -> None:
    catalogue = CATALOGUES[name]
    assert catalogue.url.startswith("https://")
    assert not catalogue.url.endswith("/")
    assert catalogue.hosts
    assert {"B02", "B03", "B04", "B08"} <= catalogue.optical.assets.keys()  # type: ignore[union-attr]
    for labels in catalogue.labels.values():
        assert (recoding(labels.scheme) != 255).sum() > 5


@pytest.mark.parametrize("name", CATALOGUES)
def test_addresses_of_labels_without_a_catalogue_are_allowed(name: str) -> None:
    policy = Policy(CATALOGUES[name].hosts)
    for labels in CATALOGUES[name].labels.values():
        for year, version in labels.versions.items():
            policy.check(labels.template.format(year=year, version=version, tile="N39E012"), proxied=True)


def test_a_file_changes_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "planetary-computer"\nurl = "http://127.0.0.1:1"\nhosts = ["127.0.0.1:2"]\nsign = "none"\n'
        "retries = 1\n[optical]\noffset = \"none\"\n[labels.worldcover]\nasset = \"classes\"\n"
    )
    found, base = choose_catalogue(str(path)), CATALOGUES["planetary-computer"]
    assert (found.url, found.hosts, found.token_url, found.retries) == ("http://127.0.0.1:1", ("127.0.0.1:2",), "", 1)
    assert found.optical.offset == "none"  # type: ignore[union-attr]
    assert found.optical.assets == base.optical.assets  # type: ignore[union-attr]
    assert found.labels["worldcover"].asset == "classes"
    assert found.labels["io-lulc"] == base.labels["io-lulc"]


def test_a_url_has_the_collections_of_planetary_computer_and_no_other_hosts() -> None:
    found = choose_catalogue("https://stac.example.org/v1/")
    assert (found.url, found.hosts, found.sign) == ("https://stac.example.org/v1", (), "none")
    assert found.sar == CATALOGUES["planetary-computer"].sar


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('base = "nowhere"', "base is 'nowhere'"),
        ('url = "ftp://a.org"', "url is"),
        ('url = "https://a.org"\nsign = "sas"', "token_url"),
        ('url = "https://a.org"\nkey = 1', "unknown entries key"),
        ('url = "https://a.org"\n[optical]\ncollection = "c"\nscl = "SCL"\nassets = {X = "x"}', "bands X"),
        ('url = "https://a.org"\n[labels.mine]\nscheme = "mine"\ncollection = "c"\nasset = "a"', "scheme is 'mine'"),
    ],
)
def test_faults_of_a_file(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        choose_catalogue(str(path))


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(OptionsError, match="planetary-computer, earth-search"):
        choose_catalogue("cdse")


def test_policy_knows_hosts_exactly() -> None:
    policy = Policy(["files.example.org"], ["127.0.0.1:8000"])
    policy.check("https://files.example.org/a.tif", proxied=True)
    policy.check("https://FILES.example.org:443/a.tif", proxied=True)
    policy.check("http://127.0.0.1:8000/a.tif")
    for url in (
        "http://files.example.org/a.tif", "https://files.example.org:8443/a.tif", "https://files.example.org.evil.org/",
        "https://evil.org/?files.example.org", "https://files.example.org@evil.org/", "http://127.0.0.1:8001/a.tif",
        "file:///etc/passwd", "/vsicurl/https://files.example.org/a.tif", "https://files.example.org/a b", "https:///a",
        "https://[::1/a", "//files.example.org/a",
    ):  # fmt: skip
        with pytest.raises(AddressError):
            policy.check(url, proxied=True)


def test_known_hosts_with_private_addresses_are_refused() -> None:
    with pytest.raises(AddressError, match="private address"):
        Policy(["localhost"]).check("https://localhost/a.tif")
