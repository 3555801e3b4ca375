"""Secure aggregation: the coordinator learns the sum of the sites' deltas and no single one.

After Bonawitz et al. 2017 (Practical Secure Aggregation, CCS, doi 10.1145/3133956.3133982), for one
coordinator that follows the protocol but is curious. Every site adds two kinds of masks to its fixed-point
numbers: one of each pair of sites, which cancel in the sum, and one of its own. Shares of what the masks
come from (Shamir, any `threshold` of them suffice) are with the other sites, so that a site that goes
away in any phase costs nothing: the others hand over what removes its pairwise masks if it never sent
its delta, or its own mask if it did, and never both.

    1 keys       every site publishes two public keys                    `secure-1.json`
    2 shares     every site seals a share of its secrets for each other  `secure-2.json`
    3 masked     every site sends its masked delta                       `delta.bin`
    4 revealed   every site hands over the shares that are needed        `secure-4.json`

Between phases the coordinator fixes who is in (a roster); no site that missed a phase is in the next.
Everything that a site says follows from one secret of the round, so that a phase that runs again says
the same. A share that opens to anything else than it should costs nothing while others suffice: with its keys
a site publishes what its secrets are recognised by, so that wrong shares are told from right ones. All of
it is arithmetic on values: files are `resources.secure_rounds`' matter.

What it does not do: it does not hide the sum, nor a delta from `threshold` sites that collude with the
coordinator, nor does it stop a coordinator that lies about rosters; robust strategies need single deltas
and exclude it.
"""

import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays
from worldloop.federation.fixed_point import CHUNK, Ring, spans
from worldloop.seeds import canonical_json

KEYS, SHARES, MASKED, REVEALED, DONE = 1, 2, 3, 4, 5
PRIME = 2**521 - 1  # of the shares' field: a Mersenne prime, larger than any secret of 32 bytes
SECRET_BYTES, SHARE_BYTES = 32, 66
MIN_SITES = 3
_MAX_CHOICES = 2000  # of shares; about a second with 100 sites
_MAGIC = b"WLMASK1\n"
_LENGTH_BYTES = 4
_NONCE = bytes(12)  # every key seals one message
_DTYPES: Mapping[int, np.dtype[Any]] = {16: np.dtype("<u2"), 32: np.dtype("<u4")}


@dataclass(frozen=True)
class Terms:
    """What all sites of a secure round agree on.

    Attributes:
        round: Key of the round.
        plan_id: Of its plan.
        sites: All that are asked.
        threshold: Shares that recover a secret; fewer sites than this end the round.
    """

    round: str
    plan_id: str
    sites: tuple[str, ...]
    threshold: int

    def __post_init__(self) -> None:
        """Refuse terms under which a delta is not hidden.

        Raises:
            MalformedRecordError: Naming what is odd.
        """
        majority = len(self.sites) // 2 + 1
        if len(set(self.sites)) < MIN_SITES or not majority <= self.threshold <= len(self.sites):
            raise MalformedRecordError(
                "secure aggregation",
                f"{len(self.sites)} sites, threshold {self.threshold}",
                f"at least {MIN_SITES} sites, and a threshold of more than half of them: a smaller one "
                "lets the coordinator ask two halves for what it may not have together",
                "Correct the plan.",
            )


@dataclass(frozen=True)
class Masked:
    """A masked delta, as it lies in the payload of `delta.bin`.

    Attributes:
        shapes: Shape of each tensor, in order of the names.
        ring: Their numbers and the weight, masked, shape (N + 1,).
    """

    shapes: Mapping[str, tuple[int, ...]]
    ring: Ring


class MaskingSite:
    """One site's side of a secure round: pure functions of its secret and of what others published.

    Args:
        terms: Of the round.
        site: Its name.
        secret: 32 random bytes, kept by the site alone until the round is over.
    """

    def __init__(self, terms: Terms, site: str, secret: bytes):
        self.terms, self.site = terms, site
        if len(secret) != SECRET_BYTES or site not in terms.sites:
            raise ValueError(f"{site!r} needs {SECRET_BYTES} secret bytes and a place in the round")
        context = [terms.round, terms.plan_id, site]
        self._encryption_secret = _derived(secret, "encryption key", *context)
        self._mask_secret = _derived(secret, "mask key", *context)
        self._self_secret = _derived(secret, "self mask", *context)
        self._polynomials = _derived(secret, "polynomials", *context)

    def keys(self, weight: int) -> dict[str, Any]:
        """Phase 1: the public keys, a commitment to the own mask, and how many bits the site's weight has.

        Args:
            weight: Of the site; of it only the length in bits is told, so that all agree on a scale.
        """
        return {
            **self._head(),
            "encryption_key": _public(self._encryption_secret).hex(),
            "mask_key": _public(self._mask_secret).hex(),
            "self_commitment": _commitment(self._self_secret),
            "weight_bits": weight.bit_length(),
        }

    def shares(self, keys: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Phase 2: a share of both secrets for each site, sealed so that only it can read it.

        Args:
            keys: What each site of the first roster published.
        """
        roster = check_roster(self.terms, keys)
        coefficients = {
            kind: _coefficients(self._polynomials, kind, roster, self.terms.threshold)
            for kind in ("mask", "self")
        }
        sealed = {}
        for other in roster:
            point = self.terms.sites.index(other) + 1
            plain = _share(self._mask_secret, coefficients["mask"], point)
            plain += _share(self._self_secret, coefficients["self"], point)
            key = self._pair_key(keys[other], self.site, other, roster)
            sealed[other] = ChaCha20Poly1305(key).encrypt(_NONCE, plain, None).hex()
        return {**self._head(), "shares": sealed}

    def masked(
        self, ring: Ring, keys: Mapping[str, Mapping[str, Any]], roster: Collection[str]
    ) -> Ring:
        """Phase 3: the site's numbers behind its own mask and one of each other site.

        Args:
            ring: What `FixedPoint.quantised` gave.
            keys: What each site published.
            roster: Sites that sealed shares (the second roster).
        """
        check_roster(self.terms, roster)
        masked = ring.copy()
        add_mask(masked, self._self_secret)
        for other in sorted(roster):
            if other != self.site:
                seed = _pair_seed(self._mask_secret, self.site, keys[other], other, self.terms)
                add_mask(masked, seed, negative=self.site > other)
        return masked

    def revealed(
        self,
        keys: Mapping[str, Mapping[str, Any]],
        shares: Mapping[str, Mapping[str, Any]],
        roster: Collection[str],
        survivors: Collection[str],
    ) -> dict[str, Any]:
        """Phase 4: shares of the own masks of those who sent, and of the mask keys of those who did not.

        Sealed shares that cannot be opened, or hold no number of the field, are left out.

        Args:
            keys: What each site of the first roster published.
            shares: What each site of the second roster sealed.
            roster: The second roster.
            survivors: Sites whose masked delta is there (the third roster).

        Raises:
            MalformedRecordError: If the survivors are too few or no part of the roster.
        """
        check_roster(self.terms, survivors)
        if not set(survivors) <= set(roster):
            raise MalformedRecordError(
                "third roster",
                sorted(set(survivors) - set(roster)),
                "sites of the second roster",
                "Open a new round.",
            )
        first = check_roster(self.terms, keys)
        of_masks: dict[str, str] = {}
        of_selves: dict[str, str] = {}
        for other in sorted(roster):
            key = self._pair_key(keys[other], other, self.site, first)
            mask, own = _opened(key, shares[other]["shares"].get(self.site, ""))
            table, share = (of_selves, own) if other in survivors else (of_masks, mask)
            if int.from_bytes(share, "little") < PRIME and share:
                table[other] = share.hex()
        return {**self._head(), "mask_shares": of_masks, "self_shares": of_selves}

    def _head(self) -> dict[str, Any]:
        return {"round": self.terms.round, "plan_id": self.terms.plan_id, "site": self.site}

    def _pair_key(
        self, their_keys: Mapping[str, Any], sender: str, receiver: str, roster: Sequence[str]
    ) -> bytes:
        """Of one sealed message; another roster, which changes the message, has another key."""
        common = _agreed(self._encryption_secret, their_keys["encryption_key"])
        context = [self.terms.round, self.terms.plan_id, sender, receiver, *roster]
        return _derived(common, "sealed shares", *context)


def check_roster(terms: Terms, roster: Collection[str]) -> tuple[str, ...]:
    """A roster in order of the names.

    Raises:
        MalformedRecordError: If it has fewer sites than the threshold, or one that was not asked.
    """
    if len(roster) < terms.threshold or not set(roster) <= set(terms.sites):
        raise MalformedRecordError(
            "roster of a secure round",
            sorted(roster),
            f"at least {terms.threshold} of {terms.sites}",
            "Too few sites are left; open a new round.",
        )
    return tuple(sorted(roster))


@dataclass(frozen=True)
class Secrets:
    """What unmasks the sum of a round.

    Attributes:
        own: Of each survivor, what its own mask comes from.
        pairs: Of each site that went away, what its pairwise masks come from.
        odd: Of each of them whose shares are not all right, the sites that handed over a wrong one, or none.
    """

    own: Mapping[str, bytes]
    pairs: Mapping[str, bytes]
    odd: Mapping[str, tuple[str, ...]]


def recovered(
    terms: Terms,
    survivors: Collection[str],
    keys: Mapping[str, Mapping[str, Any]],
    revealed: Mapping[str, Mapping[str, Any]],
    roster: Collection[str],
) -> Secrets:
    """The secrets out of what was revealed; wrong shares are left out while right ones suffice.

    Args:
        terms: Of the round.
        survivors: Sites whose masked delta is there.
        keys: What each site of the second roster published.
        revealed: What sites revealed, at least `threshold` of them.
        roster: The second roster.

    Raises:
        MalformedRecordError: If too few revealed, or of some site no `threshold` shares fit what it published.
    """
    check_roster(terms, survivors)
    check_roster(terms, revealed)
    gone = sorted(set(roster) - set(survivors))
    found: dict[str, bytes] = {}
    odd: dict[str, tuple[str, ...]] = {}
    lost: list[str] = []
    for site in (*sorted(survivors), *gone):
        points = _points(terms, revealed, "mask_shares" if site in gone else "self_shares", site)
        published = keys[site]["mask_key" if site in gone else "self_commitment"]
        answer = _recovered(
            points, terms.threshold, published, _public_hex if site in gone else _commitment
        )
        if answer is None:
            lost.append(site)
            continue
        found[site], right = answer
        wrong = tuple(one for one in sorted(revealed) if terms.sites.index(one) + 1 not in right)
        if wrong:
            odd[site] = wrong
    if lost:
        raise _unrecovered(terms, lost, len(survivors) + len(gone))
    return Secrets(
        {site: found[site] for site in survivors}, {site: found[site] for site in gone}, odd
    )


def unmasked(
    terms: Terms,
    masked: Mapping[str, Ring],
    keys: Mapping[str, Mapping[str, Any]],
    revealed: Mapping[str, Mapping[str, Any]],
    roster: Collection[str],
) -> Ring:
    """The sum of the deltas, exact, out of masked ones.

    Args:
        terms: Of the round.
        masked: What each survivor sent.
        keys: What each site of the second roster published.
        revealed: What sites revealed, at least `threshold` of them.
        roster: The second roster.

    Raises:
        MalformedRecordError: If sizes differ, or as `recovered` raises it.
    """
    survivors = check_roster(terms, masked)
    return unmasked_with(terms, masked, keys, recovered(terms, survivors, keys, revealed, roster))


def unmasked_with(
    terms: Terms,
    masked: Mapping[str, Ring],
    keys: Mapping[str, Mapping[str, Any]],
    secrets: Secrets,
) -> Ring:
    """The same with secrets that were recovered before.

    Raises:
        MalformedRecordError: If sizes differ.
    """
    survivors = check_roster(terms, masked)
    if len({ring.size for ring in masked.values()}) != 1:
        raise MalformedRecordError(
            "masked deltas",
            {site: ring.size for site, ring in sorted(masked.items())},
            "one size",
            "Sites trained adapters of other shapes; open a new round.",
        )
    total = np.zeros_like(masked[survivors[0]])
    for site in survivors:
        total += masked[site]
        add_mask(total, secrets.own[site], negative=True)
    for gone, secret in secrets.pairs.items():
        for site in survivors:
            seed = _pair_seed(secret, gone, keys[site], site, terms)
            add_mask(total, seed, negative=site < gone)
    return total


def is_public_key(hex_digits: str) -> bool:
    """Whether a secret can be agreed on with a public key: with a point of low order none can.

    Args:
        hex_digits: 64 of them.

    Example:
        >>> is_public_key("02" * 32), is_public_key("00" * 32)
        (True, False)
    """
    try:
        _agreed(bytes(SECRET_BYTES), hex_digits)
    except ValueError:
        return False
    return True


def add_mask(ring: Ring, seed: bytes, *, negative: bool = False) -> None:
    """Add the numbers that a seed stands for, in place: ChaCha20's key stream as little-endian integers.

    Args:
        ring: Shape (N,).
        seed: 32 bytes.
        negative: Whether they are subtracted.
    """
    stream = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
    little = ring.dtype.newbyteorder("<")
    size = min(CHUNK, ring.size) * ring.itemsize
    zeros, scratch = bytes(size), bytearray(size)
    operation = np.subtract if negative else np.add
    for span in spans(ring.size):
        length = (span.stop - span.start) * ring.itemsize
        stream.update_into(memoryview(zeros)[:length], scratch)
        numbers = np.frombuffer(scratch, little, span.stop - span.start)
        operation(ring[span], numbers, out=ring[span])


def flattened(arrays: Arrays) -> tuple[NDArray[np.float32], dict[str, tuple[int, ...]]]:
    """All numbers of tensors in order of the names, shape (N,), and the shapes."""
    names = sorted(arrays)
    flat = np.concatenate([np.asarray(arrays[name], np.float32).ravel() for name in names])
    return flat, {name: arrays[name].shape for name in names}


def unflattened(
    flat: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, NDArray[np.float32]]:
    """Tensors out of their numbers."""
    names = sorted(shapes)
    ends = np.cumsum([math.prod(shapes[name]) for name in names])
    parts = np.split(flat, ends[:-1])
    return {name: part.reshape(shapes[name]) for name, part in zip(names, parts, strict=True)}


def masked_bytes(masked: Masked) -> bytes:
    """The payload of a masked delta."""
    ring = masked.ring
    record = {
        "bits": ring.itemsize * 8,
        "shapes": {name: list(shape) for name, shape in masked.shapes.items()},
    }
    head = canonical_json(record)
    numbers = ring.astype(ring.dtype.newbyteorder("<"), copy=False).tobytes()
    return _MAGIC + len(head).to_bytes(_LENGTH_BYTES, "little") + head + numbers


def read_masked(payload: bytes) -> Masked:
    """Read the payload of a masked delta.

    Raises:
        MalformedRecordError: If it is none, or was cut short.
    """
    begin = len(_MAGIC) + _LENGTH_BYTES
    end = begin + int.from_bytes(payload[len(_MAGIC) : begin], "little")
    try:
        record = json.loads(payload[begin:end]) if payload.startswith(_MAGIC) else {}
        shapes = {str(name): _shape(shape) for name, shape in record["shapes"].items()}
        dtype = _DTYPES[record["bits"]]
        whole = record.keys() == {"bits", "shapes"} and canonical_json(record) == payload[begin:end]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        whole, shapes, dtype = False, {}, _DTYPES[32]
    num_numbers = sum(math.prod(shape) for shape in shapes.values()) + 1
    if not whole or len(payload) - end != num_numbers * dtype.itemsize:
        raise MalformedRecordError(
            "masked delta",
            f"{len(payload)} bytes",
            "a head and the numbers that it announces",
            "It was cut short; have the site send it again.",
        )
    ring = np.frombuffer(payload, dtype, offset=end)
    return Masked(shapes, ring.astype(dtype.newbyteorder("="), copy=False))


def _shape(shape: Any) -> tuple[int, ...]:
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(shape)
    return tuple(shape)


def _derived(secret: bytes, *context: str) -> bytes:
    return HKDF(SHA256(), SECRET_BYTES, None, canonical_json(list(context))).derive(secret)


def _public(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _agreed(secret: bytes, their_key: str) -> bytes:
    theirs = X25519PublicKey.from_public_bytes(bytes.fromhex(their_key))
    return X25519PrivateKey.from_private_bytes(secret).exchange(theirs)


def _pair_seed(
    secret: bytes, site: str, their_keys: Mapping[str, Any], other: str, terms: Terms
) -> bytes:
    """What the mask of two sites comes from; the same at both."""
    common = _agreed(secret, their_keys["mask_key"])
    return _derived(common, "pair mask", terms.round, terms.plan_id, *sorted((site, other)))


def _coefficients(secret: bytes, kind: str, roster: Sequence[str], threshold: int) -> list[int]:
    """Of a polynomial without its constant: uniform, as 96 bytes are 247 bits more than the field has."""
    return [
        int.from_bytes(
            b"".join(_derived(secret, kind, str(power), str(part), *roster) for part in range(3)),
            "little",
        )
        % PRIME
        for power in range(1, threshold)
    ]


def _share(secret: bytes, coefficients: Sequence[int], point: int) -> bytes:
    """Shamir's: the polynomial whose constant is the secret, at one point."""
    value = 0
    for coefficient in reversed([int.from_bytes(secret, "little"), *coefficients]):
        value = (value * point + coefficient) % PRIME
    return value.to_bytes(SHARE_BYTES, "little")


def _opened(key: bytes, sealed: str) -> tuple[bytes, bytes]:
    """Both shares of a sealed message; empty if the key does not open it."""
    try:
        plain = ChaCha20Poly1305(key).decrypt(_NONCE, bytes.fromhex(sealed), None)
    except (InvalidTag, ValueError):
        return b"", b""
    return plain[:SHARE_BYTES], plain[SHARE_BYTES:]


def _commitment(secret: bytes) -> str:
    """What a secret is recognised by; it tells nothing of it. A public key would not do: it forgets bits."""
    return _derived(secret, "commitment").hex()


def _public_hex(secret: bytes) -> str:
    return _public(secret).hex()


def _points(
    terms: Terms, revealed: Mapping[str, Mapping[str, Any]], table: str, site: str
) -> dict[int, int]:
    """Shares of a site's secret that are numbers of the field, by the place of who held them."""
    points = {
        terms.sites.index(holder) + 1: int.from_bytes(bytes.fromhex(record[table][site]), "little")
        for holder, record in sorted(revealed.items())
        if site in record[table]
    }
    return {point: value for point, value in points.items() if value < PRIME}


def _recovered(
    points: Mapping[int, int], threshold: int, published: str, publish: Callable[[bytes], str]
) -> tuple[bytes, set[int]] | None:
    """A secret that gives what its site published, and the shares that are right; None if no `threshold` of them do."""
    for chosen in itertools.islice(_choices(tuple(points), threshold), _MAX_CHOICES):
        right = {point: points[point] for point in chosen}
        value = _interpolated(right, 0)
        if value >= 1 << (8 * SECRET_BYTES):
            continue
        secret = value.to_bytes(SECRET_BYTES, "little")
        if publish(secret) == published:
            return secret, {at for at in points if _interpolated(right, at) == points[at]}
    return None


def _choices(points: Sequence[int], threshold: int) -> Iterator[tuple[int, ...]]:
    """Choices of so many points; first neighbours, one of which leaves out any one point, then all."""
    if len(points) < threshold:
        return
    if len(points) > threshold:
        around = (*points, *points)
        yield from (around[start : start + threshold] for start in range(len(points)))
    yield from itertools.combinations(points, threshold)


def _interpolated(points: Mapping[int, int], at: int) -> int:
    """The polynomial through some points, at another one: Lagrange in the field."""
    total = 0
    for point, value in points.items():
        others = [other for other in points if other != point]
        above = math.prod(other - at for other in others)
        below = math.prod(other - point for other in others)
        total = (total + value * above * pow(below, -1, PRIME)) % PRIME
    return total


def _unrecovered(terms: Terms, lost: Sequence[str], num_secrets: int) -> MalformedRecordError:
    """Of whom too few shares fit; where it is all sites, one that reveals may be wrong as well as those that sealed."""
    named = f"site {lost[0]!r}" if len(lost) == 1 else f"sites {', '.join(lost)}"
    remedy = "It sealed wrong shares, or none. Plan the next round without it (`worldloop rounds plan --site` of each other site)."
    if len(lost) > 1:
        remedy = (
            "They sealed wrong shares, or one of those that revealed hands over wrong ones; which site is wrong "
            "cannot be told. Open a new round, and leave out one of them at a time if it ends so again."
        )
    if 1 < len(lost) < num_secrets:
        remedy = "They sealed wrong shares, or none. Plan the next round without them (`worldloop rounds plan --site` of each other site)."
    return MalformedRecordError(
        f"secure aggregation, {named}",
        f"no {terms.threshold} shares of the secret that fit what was published with the keys",
        "shares as the site made them, from enough others",
        remedy,
    )
