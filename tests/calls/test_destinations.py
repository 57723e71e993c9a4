"""Which addresses may be called: public ones, and what the operator names (MISSION S16)."""

from __future__ import annotations

import ipaddress

import pytest

from stepwire_engine.calls.destinations import LOCAL_NETWORKS, Destinations

PUBLIC = [
    "1.1.1.1", "8.8.8.8", "93.184.216.34", "11.0.0.0", "9.255.255.255", "100.63.255.255", "100.128.0.0",
    "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
    "223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "2001:200::1", "2003::1",
]  # fmt: skip

REFUSED = {
    "0.0.0.0": "unspecified", "0.1.2.3": "unspecified", "::": "unspecified",
    "127.0.0.1": "loopback", "127.255.255.254": "loopback", "::1": "loopback",
    "10.0.0.1": "private", "10.255.255.255": "private", "172.16.0.1": "private", "172.31.255.255": "private",
    "192.168.0.1": "private", "192.168.255.255": "private", "fc00::1": "private", "fd00:ec2::254": "private",
    "169.254.169.254": "metadata", "168.63.129.16": "metadata", "169.254.0.1": "link-local",
    "fe80::1": "link-local", "febf::1": "link-local", "fe80::1%eth0": "network interface",
    "100.64.0.1": "shared", "100.100.100.200": "shared", "100.127.255.255": "shared",
    "224.0.0.1": "multicast", "239.255.255.255": "multicast", "ff02::1": "multicast",
    "240.0.0.1": "reserved", "255.255.255.255": "reserved", "192.0.0.192": "reserved", "fec0::1": "reserved",
    "4000::1": "reserved", "100::1": "reserved", "5f00::1": "reserved", "2001::1": "reserved",
    "2001:0:53aa:64c::1": "reserved", "2001:10::1": "reserved",
    "192.0.2.1": "documentation", "198.51.100.1": "documentation", "203.0.113.1": "documentation",
    "2001:db8::1": "documentation", "3fff::1": "documentation", "198.18.0.1": "benchmarks",
    "::ffff:127.0.0.1": "form of an IPv6", "::ffff:8.8.8.8": "form of an IPv6", "::ffff:a00:1": "form of an IPv6",
    "::7f00:1": "form of an IPv6", "64:ff9b::7f00:1": "NAT64", "64:ff9b::8.8.8.8": "NAT64",
    "64:ff9b:1::1": "NAT64", "2002:7f00:1::1": "6to4", "192.88.99.1": "6to4", "not an address": "no address",
    "127.1": "no address", "0x7f000001": "no address", "": "no address",
}  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_called(address: str) -> None:
    assert Destinations().refusal("api.example", address) == ""


@pytest.mark.parametrize(("address", "why"), REFUSED.items())
def test_others_are_refused_and_it_is_said_why(address: str, why: str) -> None:
    assert why in Destinations().refusal("api.example", address)


def test_everything_that_the_standard_library_knows_as_not_global_is_refused() -> None:
    networks = [*ipaddress._IPv4Constants._private_networks, *ipaddress._IPv6Constants._private_networks]  # type: ignore[attr-defined]
    found = [str(end) for network in networks for end in (network[0], network[-1]) if not end.is_global]
    assert len(found) > 30
    assert [address for address in found if not Destinations().refusal("api.example", address)] == []


@pytest.mark.parametrize(
    ("allow", "host", "address", "allowed"),
    [
        ("10.1.0.0/16", "orders", "10.1.255.255", True),
        ("10.1.0.0/16", "orders", "10.2.0.0", False),
        ("10.1.0.0/16", "orders", "::ffff:10.1.0.1", False),
        ("127.0.0.1", "localhost", "127.0.0.1", True),
        ("127.0.0.1", "localhost", "127.0.0.2", False),
        ("127.0.0.1", "localhost", "::1", False),
        ("::1", "localhost", "::1", True),
        ("fd00::/8", "orders", "fd12::1", True),
        ("0.0.0.0/0", "orders", "169.254.169.254", True),
        ("0.0.0.0/0", "orders", "fd12::1", False),
        ("orders.internal", "orders.internal", "10.0.0.1", True),
        ("orders.internal", "ORDERS.Internal.", "10.0.0.1", True),
        ("Orders.Internal.", "orders.internal", "fe80::1%eth0", True),
        ("orders.internal", "evil.orders.internal", "10.0.0.1", False),
        ("orders.internal", "internal", "10.0.0.1", False),
        ("orders.internal", "10.0.0.1", "10.0.0.1", False),
        ("fe80::/10", "printer", "fe80::1%eth0", False),
    ],
)
def test_the_operator_names_networks_and_hosts(allow: str, host: str, address: str, allowed: bool) -> None:
    assert (Destinations([allow]).refusal(host, address) == "") is allowed


@pytest.mark.parametrize("wrong", ["10.0.0.1/8", "300.1.1.1", "a b", "http://a", "", "*.internal"])
def test_an_entry_that_is_neither_is_an_error(wrong: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Destinations([wrong])


def test_local_networks_hold_no_metadata() -> None:
    local = Destinations(LOCAL_NETWORKS)
    assert not any(
        local.refusal("a", address) for address in ("127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "fd12::1")
    )
    assert local.refusal("a", "169.254.169.254")
    assert local.refusal("a", "168.63.129.16")
    assert local.refusal("a", "100.100.100.200")
