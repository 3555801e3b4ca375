import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldloop.errors import MalformedRecordError
from worldloop.federation import masking
from worldloop.federation.fixed_point import FixedPoint
from worldloop.federation.masking import (
    Masked,
    MaskingSite,
    Terms,
    add_mask,
    flattened,
    masked_bytes,
    read_masked,
    unflattened,
    unmasked,
)
from worldloop.seeds import stream

SITES = ("aws", "azure", "gcp", "local")
TERMS = Terms("r0001", "a" * 32, SITES, 3)
NUMBERS = FixedPoint(bound=1.0, num_sites=4, max_weight=1000)
DELTAS = {site: stream(site).normal(0, 0.01, 4000).astype(np.float32) for site in SITES}
WEIGHTS = dict(zip(SITES, (100, 250, 1000, 30), strict=True))
RINGS = {site: NUMBERS.quantised(DELTAS[site], WEIGHTS[site]) for site in SITES}


def sites_of(terms=TERMS):
    return {site: MaskingSite(terms, site, site.encode().ljust(32, b"!")) for site in terms.sites}


def run(gone_after=None, terms=TERMS, rings=RINGS):
    """A whole round; `gone_after` is the phase whose file each lost site sent last."""
    gone_after = gone_after or {}
    sites = sites_of(terms)

    def there(phase):
        return [site for site in sites if gone_after.get(site, 9) >= phase]

    keys = {site: sites[site].keys(WEIGHTS[site]) for site in there(1)}
    shares = {site: sites[site].shares(keys) for site in there(2)}
    masked = {site: sites[site].masked(rings[site], keys, there(2)) for site in there(3)}
    said = {s: sites[s].revealed(keys, shares, there(2), there(3)) for s in there(4)}
    return masked, unmasked(terms, masked, keys, said, there(2)), said


def summed(sites, rings=RINGS):
    return sum(rings[site] for site in sites)


def test_the_sum_is_exact_in_fixed_point():
    _, total, _ = run()
    np.testing.assert_array_equal(total, summed(SITES))


@pytest.mark.parametrize(("lost", "phase"), list(itertools.product(SITES, (1, 2, 3))))
def test_one_of_four_may_go_away_in_any_phase(lost, phase):
    _, total, _ = run({lost: phase})
    stayed = SITES if phase == 3 else [site for site in SITES if site != lost]
    np.testing.assert_array_equal(total, summed(stayed))


def test_one_of_four_may_never_begin():
    _, total, _ = run({"gcp": 0})
    np.testing.assert_array_equal(total, summed(["aws", "azure", "local"]))


def test_three_sites_lose_one_with_a_threshold_of_two():
    terms = Terms("r0001", "a" * 32, SITES[:3], 2)
    _, total, _ = run({"azure": 2}, terms)
    np.testing.assert_array_equal(total, summed(["aws", "gcp"]))


def test_the_mean_is_that_of_the_weighted_deltas():
    _, total, _ = run()
    mean, weight = NUMBERS.mean(total)
    exact = sum(DELTAS[site].astype(np.float64) * WEIGHTS[site] for site in SITES) / 1380
    assert weight == 1380
    np.testing.assert_allclose(mean, exact, atol=3e-9)


def test_what_the_coordinator_sees_is_uniform_whatever_the_delta():
    zeros = {site: np.zeros_like(ring) for site, ring in RINGS.items()}
    for rings in (RINGS, zeros):
        for site, seen in run(rings=rings)[0].items():
            counts = np.bincount(seen >> np.uint32(28), minlength=16)
            expected = seen.size / 16
            chi_square = float(((counts - expected) ** 2 / expected).sum())
            assert chi_square < 44.3  # one in 10,000 for 15 degrees of freedom
            signed = rings[site].view(np.int32).astype(np.float64)
            if signed.any():
                assert abs(np.corrcoef(signed, seen.view(np.int32))[0, 1]) < 0.08


def test_nothing_less_than_all_survivors_sums_to_anything():
    masked, total, _ = run()
    for some in (s for n in (1, 2, 3) for s in itertools.combinations(SITES, n)):
        partial = sum(masked[site] for site in some)
        assert np.mean(partial == summed(some)) < 0.01
    assert np.mean(sum(masked.values()) == total) < 0.01  # the own masks are left


def test_never_both_secrets_of_a_site_are_revealed():
    _, _, said = run({"gcp": 2})
    for record in said.values():
        assert not record["mask_shares"].keys() & record["self_shares"].keys()
        assert set(record["mask_shares"]) == {"gcp"}


def test_a_phase_that_runs_again_says_the_same():
    first, again = run({"gcp": 2}), run({"gcp": 2})
    assert first[2] == again[2]
    np.testing.assert_array_equal(first[0]["aws"], again[0]["aws"])


def test_another_round_has_other_masks():
    other = Terms("r0002", "a" * 32, SITES, 3)
    assert np.mean(run()[0]["aws"] == run(terms=other)[0]["aws"]) < 0.01


def test_a_share_can_be_opened_by_the_one_it_is_for_alone():
    sites = sites_of()
    keys = {site: sites[site].keys(1) for site in SITES}
    shares = {site: sites[site].shares(keys) for site in SITES}
    assert sites["aws"].revealed(keys, shares, SITES, SITES)["self_shares"].keys() == {*SITES}
    for record in shares.values():
        record["shares"]["aws"] = record["shares"]["gcp"]
    said = sites["aws"].revealed(keys, shares, SITES, SITES)
    assert said["self_shares"] == said["mask_shares"] == {}


def test_fewer_than_the_threshold_reveal_nothing():
    sites = sites_of()
    keys = {site: sites[site].keys(1) for site in SITES}
    shares = {site: sites[site].shares(keys) for site in SITES}
    masked = {site: sites[site].masked(RINGS[site], keys, SITES) for site in SITES}
    said = {s: sites[s].revealed(keys, shares, SITES, SITES) for s in SITES[:2]}
    with pytest.raises(MalformedRecordError, match="at least 3 of"):
        unmasked(TERMS, masked, keys, said, SITES)
    with pytest.raises(MalformedRecordError, match="at least 3 of"):
        sites["aws"].revealed(keys, shares, SITES, SITES[:2])


def test_altered_shares_are_noticed():
    sites = sites_of()
    keys = {site: sites[site].keys(1) for site in SITES}
    shares = {site: sites[site].shares(keys) for site in SITES}
    some = SITES[:3]
    masked = {site: sites[site].masked(RINGS[site], keys, SITES) for site in some}
    said = {site: sites[site].revealed(keys, shares, SITES, some) for site in some}
    said["aws"]["mask_shares"]["local"] = "01" * 66
    with pytest.raises(MalformedRecordError, match=r"'local'.*shares"):
        unmasked(TERMS, masked, keys, said, SITES)


@pytest.mark.parametrize(("sites", "threshold"), [(SITES[:2], 2), (SITES, 2), (SITES, 5)])
def test_terms_under_which_a_delta_is_not_hidden_are_refused(sites, threshold):
    with pytest.raises(MalformedRecordError, match="at least 3 sites"):
        Terms("r0001", "a" * 32, sites, threshold)


@settings(max_examples=30)
@given(secret=st.binary(min_size=32, max_size=32), chosen=st.permutations(SITES))
def test_any_threshold_of_the_shares_give_the_secret_back(secret, chosen):
    coefficients = masking._coefficients(secret[::-1], "self", SITES, 3)
    shares = {
        site: {"table": {"x": masking._share(secret, coefficients, number + 1).hex()}}
        for number, site in enumerate(SITES)
    }
    points = masking._points(TERMS, {site: shares[site] for site in chosen[:3]}, "table", "x")
    found = masking._recovered(points, 3, masking._commitment(secret), masking._commitment)
    assert found == (secret, set(points))


@settings(max_examples=30)
@given(
    secret=st.binary(min_size=32, max_size=32),
    num_sites=st.integers(3, 9),
    noise=st.integers(0, masking.PRIME - 1),
    data=st.data(),
)
def test_right_shares_are_told_from_wrong_ones_while_enough_are_right(
    secret, num_sites, noise, data
):
    threshold = num_sites // 2 + 1
    coefficients = masking._coefficients(secret[::-1], "self", SITES, threshold)
    points = {
        at: int.from_bytes(masking._share(secret, coefficients, at), "little")
        for at in range(1, num_sites + 1)
    }
    wrong = data.draw(st.sets(st.sampled_from(sorted(points)), max_size=num_sites - threshold + 1))
    told = points | {at: (points[at] + (noise + 1) * at**7) % masking.PRIME for at in wrong}
    wrong = {at for at in wrong if told[at] != points[at]}
    found = masking._recovered(told, threshold, masking._commitment(secret), masking._commitment)
    enough = len(points) - len(wrong) >= threshold
    assert found == ((secret, set(points) - wrong) if enough else None)


@pytest.mark.parametrize("shift", [1, 4, 1 << 255])
def test_a_share_that_shifts_the_secret_a_little_is_noticed(shift):
    """The points are known to all, so who holds a share can shift the secret by any number."""
    secret = bytes(31) + b"\x01"
    coefficients = masking._coefficients(b"p" * 32, "self", SITES, 3)
    points = {
        at: int.from_bytes(masking._share(secret, coefficients, at), "little") for at in (1, 2, 3)
    }
    unit = masking._interpolated({1: 1, 2: 0, 3: 0}, 0)
    told = points | {1: (points[1] + shift * pow(unit, -1, masking.PRIME)) % masking.PRIME}
    moved = masking._interpolated(told, 0)
    assert moved == int.from_bytes(secret, "little") + shift
    published = masking._commitment(secret)
    assert masking._recovered(told, 3, published, masking._commitment) is None
    assert masking._recovered(points, 3, published, masking._commitment) is not None


def test_a_mask_is_the_cipher_s_key_stream():
    # RFC 8439, section A.1, test vector 1: key, nonce and counter of zeros
    ring = np.zeros(2, np.uint32)
    add_mask(ring, bytes(32))
    assert ring.tobytes().hex() == "76b8e0ada0f13d90"
    add_mask(ring, bytes(32), negative=True)
    assert not ring.any()


def test_a_mask_longer_than_a_piece_goes_on_without_a_seam():
    long = np.zeros((1 << 20) + 5, np.uint16)
    add_mask(long, b"k" * 32)
    stream_bytes = np.zeros(long.size // 2 + 1, np.uint32)
    add_mask(stream_bytes, b"k" * 32)
    assert long.tobytes() == stream_bytes.tobytes()[: long.nbytes]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_a_masked_delta_survives_its_file(dtype):
    shapes = {"a.lora_A.weight": (2, 3), "b.lora_B.weight": (3, 1)}
    ring = np.arange(10, dtype=dtype)
    content = masked_bytes(Masked(shapes, ring))
    found = read_masked(content)
    assert found.shapes == shapes
    np.testing.assert_array_equal(found.ring, ring)
    for odd in (content[:-1], content + b"x", content[4:], b"", content[:9]):
        with pytest.raises(MalformedRecordError, match="cut short"):
            read_masked(odd)


@given(st.binary(max_size=200))
def test_any_bytes_are_no_masked_delta_and_never_a_crash(content):
    with pytest.raises(MalformedRecordError):
        read_masked(b"WLMASK1\n" + content)


def test_tensors_are_flattened_by_name_and_back():
    arrays = {"b": np.float32([[1], [2]]), "a": np.float32([3])}
    flat, shapes = flattened(arrays)
    assert flat.tolist() == [3, 1, 2]
    np.testing.assert_array_equal(unflattened(flat, shapes)["b"], arrays["b"])
