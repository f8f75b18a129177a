"""Certificates from files: what does not fit together is refused before gRPC gets it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from orderflow_server.security.certificates import certificates
from orderflow_server.security.reloading import UnusableFile

CA = trustme.CA()
ONE, OTHER = CA.issue_cert("localhost"), CA.issue_cert("localhost")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.pem" for name in ("certificate", "key", "client_ca")}
    write(files, ONE)
    CA.cert_pem.write_to_path(files["client_ca"])
    return files


def write(files: dict[str, Path], leaf: trustme.LeafCert) -> None:
    files["certificate"].write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(files["key"])


def test_what_fits_is_read(files: dict[str, Path]) -> None:
    read = certificates(**files).current()
    assert read.key == ONE.private_key_pem.bytes()
    assert read.client_ca == CA.cert_pem.bytes()
    del files["client_ca"]
    assert certificates(**files).current().client_ca is None


def test_a_key_of_another_certificate_is_refused(files: dict[str, Path]) -> None:
    OTHER.private_key_pem.write_to_path(files["key"])
    with pytest.raises(UnusableFile, match="not that of the certificate"):
        certificates(**files)


@pytest.mark.parametrize("name", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("content", [b"", b"nonsense"])
def test_what_is_no_pem_is_refused(files: dict[str, Path], name: str, content: bytes) -> None:
    files[name].write_bytes(content)
    with pytest.raises(UnusableFile, match=str(files[name])):
        certificates(**files)


def test_while_the_files_are_replaced_one_after_the_other_the_old_ones_are_used(
    files: dict[str, Path],
) -> None:
    reloaded = certificates(**files)
    first = reloaded.current()
    OTHER.private_key_pem.write_to_path(files["key"])
    assert reloaded.current() is first
    write(files, OTHER)
    assert reloaded.current().key == OTHER.private_key_pem.bytes()


def test_nothing_of_it_is_in_its_repr(files: dict[str, Path]) -> None:
    assert repr(certificates(**files).current()) == "Certificates()"
