"""Where a download may go: URLs that can be asked for, and addresses that lie on the public internet.

A host name is looked up by us, its answers are judged here, and the connection goes to the very addresses that were judged: no second
answer of a name server can lead into a private network.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Collection
from urllib.parse import quote, urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from ccray.data.pictures.images import Unusable
from ccray.schema import Reject

# A host name or numeric address, in any spelling, and a port -> its addresses. May block; raises OSError.
LookUp = Callable[[str, int], list[str]]

ESCAPED_ALREADY = "!#$%&'()*+,/:;=?@[]~"  # left alone in a path and query: what is legal there, and escapes
NAT64 = ipaddress.ip_network("64:ff9b::/96")
SIX_TO_FOUR_RELAYS = ipaddress.ip_network("192.88.99.0/24")


class Blocked(Exception):
    """A host is at an address that is not on the public internet."""


def is_public(address: str) -> bool:
    """Whether an address lies on the public internet, also when an IPv6 address only wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip not in SIX_TO_FOUR_RELAYS
    inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
    if ip in NAT64:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_site_local


def request_url(url: str) -> URL | Unusable:
    """What to ask for: host in ASCII, path and query escaped where they must be and otherwise untouched, user and fragment dropped."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\\\x00-\x20\x7f]", parts.netloc):
            return Unusable(Reject.DOWNLOAD_BAD_URL, f"{url[:200]}: expected http:// or https:// and a host")
        site = URL.build(scheme=parts.scheme, host=parts.hostname, port=parts.port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return URL(f"{site.scheme}://{site.raw_authority}{quote(target, safe=ESCAPED_ALREADY)}", encoded=True)
    except ValueError as error:
        return Unusable(Reject.DOWNLOAD_BAD_URL, f"{url[:200]}: {error}")


def is_numeric(host: str) -> bool:
    """Whether aiohttp takes a host for an address, and asks no resolver about it."""
    return ":" in host or host.replace(".", "").isdigit()


def system_look_up(host: str, port: int) -> list[str]:
    """The machine's own answer. Also reads the old spellings of IPv4 addresses: 127.1, 0x7f000001, 017700000001, 2130706433."""
    return list(dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))


class CheckedResolver(AbstractResolver):
    """Answers with addresses to which we may connect."""

    def __init__(self, allowed_hosts: Collection[str], look_up: LookUp = system_look_up) -> None:
        """`allowed_hosts` may be private: compared with the host as the URL has it."""
        self._allowed = {host.lower().strip("[]") for host in allowed_hosts}
        self._look_up = look_up

    async def checked(self, host: str, port: int) -> list[str]:
        """The addresses of a host.

        Raises:
            Blocked: when one of them is not public: a mixed answer is a trick.
            OSError: when there are none.
        """
        allowed = host.lower() in self._allowed
        if not allowed and f".{host.lower().rstrip('.')}".endswith(".localhost"):  # RFC 6761, 6.3: whatever a name server says
            raise Blocked(f"{host[:200]} is this machine: not a public address")
        try:
            addresses = await asyncio.get_running_loop().run_in_executor(None, self._look_up, host, port)
        except UnicodeError as error:
            raise OSError(f"{host[:200]} is no host name: {error}") from error
        if not addresses:
            raise OSError(f"{host[:200]} has no address")
        refused = [address for address in addresses if not allowed and not is_public(address)]
        if refused:
            raise Blocked(f"{host[:200]} is at {', '.join(refused[:4])}: not a public address")
        return addresses

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        return [_resolved(host, address, port) for address in await self.checked(host, port)]

    async def close(self) -> None:
        """Nothing is held."""


def _resolved(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
