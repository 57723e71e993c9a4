"""Which addresses `call` steps may reach. Pure.

URLs come from flows and their inputs, so without a policy a caller of a flow could make the engine ask the services
beside it. Only addresses of the public Internet are reached, unless the operator names others. It must not resolve
names: it judges the addresses that a connection will be made to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from stepwire_engine.config import Network, network_of

LOCAL_NETWORKS = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
"""Loopback and private networks; what `stepwire dev` and engines inside tests allow."""

_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_SPECIAL = {
    ipaddress.ip_network(network): name
    for network, name in {
        # The registries of special-purpose addresses of IANA, and addresses of clouds' own services.
        "0.0.0.0/8": "an unspecified address",
        "10.0.0.0/8": "a private address",
        "100.64.0.0/10": "an address shared by a provider's customers",
        "127.0.0.0/8": "a loopback address",
        "168.63.129.16/32": "an address of cloud metadata",
        "169.254.0.0/16": "a link-local address, as of cloud metadata",
        "172.16.0.0/12": "a private address",
        "192.0.0.0/24": "a reserved address",
        "192.0.2.0/24": "an address for documentation",
        "192.88.99.0/24": "a 6to4 relay",
        "192.168.0.0/16": "a private address",
        "198.18.0.0/15": "an address for benchmarks",
        "198.51.100.0/24": "an address for documentation",
        "203.0.113.0/24": "an address for documentation",
        "224.0.0.0/4": "a multicast address",
        "240.0.0.0/4": "a reserved address",
        "::/128": "an unspecified address",
        "::1/128": "a loopback address",
        "::ffff:0:0/96": "an IPv4 address in the form of an IPv6 one",
        "::/96": "an IPv4 address in the form of an IPv6 one",
        "64:ff9b::/96": "an IPv4 address behind NAT64",
        "64:ff9b:1::/48": "an IPv4 address behind NAT64",
        "2001::/23": "a reserved address",
        "2001:db8::/32": "an address for documentation",
        "2002::/16": "a 6to4 address",
        "3fff::/20": "an address for documentation",
        "fc00::/7": "a private address",
        "fe80::/10": "a link-local address",
        "ff00::/8": "a multicast address",
    }.items()
}


class Destinations:
    """The policy of one engine.

    Args:
        allow: What may be reached besides the public Internet: networks ("10.0.0.0/8"), addresses, and host names,
            which are compared exactly and may then have any address.

    Raises:
        ValueError: an entry is neither a network nor the name of a host.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._networks: list[Network] = []
        self._names: set[str] = set()
        for entry in allow:
            network = network_of(entry)
            if network is None:
                self._names.add(_plain(entry))
            else:
                self._networks.append(network)

    def refusal(self, host: str, address: str) -> str:
        """Why no connection may be made to `address`, which stands for `host`; empty: it may be made."""
        if _plain(host) in self._names:
            return ""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return "no address"
        if found.version == 6 and found.scope_id:
            return "an address of one network interface"
        if any(found in network for network in self._networks):
            return ""
        special = next((name for network, name in _SPECIAL.items() if found in network), "")
        if not special and found.version == 6 and found not in _PUBLIC_V6:
            return "a reserved address"
        return special


def _plain(host: str) -> str:
    return host.lower().rstrip(".")
