import hashlib
import json
from pathlib import Path

import polars as pl
import pytest

from resources.federation import Federation
from resources.site_footage import SiteFootage
from tests import rows
from worldloop.errors import BudgetExceededError, StoreError
from worldloop.layout import manifest_key
from worldloop.packs import ERASED
from worldloop.records import CAPTIONS, MANIFEST, table_bytes

SITES = """
[sites.local]
cities = []
store = "site"
[sites.aws]
cities = ["tokyo", "lima"]
store = "aws"
[sites.gcp]
cities = ["cairo"]
store = "gcp"
"""
WAVE = "w0001"


class Land:
    """A federation in folders whose releases are made up, with real bytes in the packs."""

    def __init__(self, home: Path):
        (home / "sites.toml").write_text(SITES)
        self.federation = Federation(sites_path=str(home / "sites.toml"), home=str(home))
        self.footage = SiteFootage(self.federation, "aws", home / "scratch")
        self.manifest = MANIFEST.empty()

    def film(self, site: str, city: str, num_clips: int = 2, wave: str = WAVE) -> list[str]:
        """Release clips of a city: pack, private log and manifest; answers with their ids."""
        clips = rows.clips(range(num_clips), wave=wave, city=city)
        store, log = self.federation.store(site), self.federation.log(site)
        packed, content = packed_clips(clips)
        store.put(packed["pack_key"][0], content)
        log.append("clips", packed)
        words = [f"{city} {index}" for index in range(num_clips)]
        told = packed.with_columns(caption=pl.Series(words), prose=pl.lit("long"))
        log.append("captions", CAPTIONS.conform(told.select(list(CAPTIONS.columns))))
        released = told.with_columns(
            site=pl.lit(site), offset=pl.lit(0), caption=pl.lit("of the manifest")
        )
        self.manifest = pl.concat(
            [self.manifest, MANIFEST.conform(released.select(list(MANIFEST.columns)))]
        )
        mine = self.manifest.filter(pl.col("wave") == wave)
        self.federation.store("local").put(manifest_key(wave), table_bytes(MANIFEST, mine))
        return packed["recipe_id"].to_list()

    def train(self, **changes):
        return self.footage.stage_train([WAVE], **{"held_out_cities": (), **changes})


def packed_clips(clips: pl.DataFrame) -> tuple[pl.DataFrame, bytes]:
    """The clips with the hashes of a pack's real bytes, and the pack."""
    content = bytearray(clips.height * 8192)
    members = clips["members"].to_list()
    for each in (member for row in members for member in row):
        data = (each["name"].encode() * each["size_bytes"])[: each["size_bytes"]]
        content[each["offset"] : each["offset"] + each["size_bytes"]] = data
        each["sha256"] = hashlib.sha256(data).hexdigest()
    packed = clips.with_columns(members=pl.Series(members, dtype=clips["members"].dtype))
    return packed, bytes(content)


@pytest.fixture
def land(tmp_path):
    return Land(tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "videos").glob("*"))


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]


def test_a_site_stages_its_own_clips_with_its_own_captions(land):
    ids = land.film("aws", "tokyo")
    land.film("gcp", "cairo")

    staged = land.train()
    assert (staged.num_clips, staged.num_new, staged.num_by_city) == (2, 2, {"tokyo": 2})
    assert staged.size_mb == round(2 * rows.RGB_BYTES / 1e6, 3)
    assert names(staged.folder) == sorted(ids)
    video = (staged.folder / "videos" / f"{ids[1]}.mp4").read_bytes()
    assert video.startswith(f"{ids[1]}.rgb.mp4".encode())
    assert (staged.folder / "metas" / f"{ids[1]}.txt").read_text() == "tokyo 1"
    assert {row["recipe_id"] for row in listed(staged.folder)} == set(ids)
    assert listed(staged.folder)[0]["city"] == "tokyo"


def test_a_second_call_fetches_nothing(land):
    land.film("aws", "tokyo")
    land.train()
    land.federation.store("aws").delete_many(
        k for k, _ in land.federation.store("aws").list("packs")
    )

    assert (land.train().num_clips, land.train().num_new) == (2, 0)


def test_held_out_cities_go_into_a_folder_of_their_own(land):
    land.film("aws", "tokyo")
    lima = land.film("aws", "lima")

    held = land.footage.stage_held_out([WAVE], held_out_cities=["lima"])
    assert names(held.folder) == sorted(lima)
    assert land.train(held_out_cities=["lima"]).num_by_city == {"tokyo": 2}
    assert land.footage.stage_held_out([WAVE], held_out_cities=[]).num_clips == 0


def test_what_was_taken_back_goes_with_what_was_encoded_from_it(land):
    ids = land.film("aws", "tokyo")
    staged = land.train()
    video = staged.folder / "videos" / f"{ids[0]}.mp4"
    sha256 = hashlib.sha256(video.read_bytes()).hexdigest()
    kept = staged.cache_dir / "Tiny-ab" / "latents" / f"{'0' * 64}.ff.safetensors"
    encoded = kept.with_name(f"{sha256}.ff.safetensors")
    kept.parent.mkdir(parents=True)
    for path in (kept, encoded):
        path.write_bytes(b"latent")
    land.federation.log("aws").retract("clips", [ids[0]], reason="asked for")

    again = land.train()
    assert (again.num_clips, again.num_removed) == (1, 1)
    assert names(again.folder) == [ids[1]]
    assert not (again.folder / "metas" / f"{ids[0]}.txt").exists()
    assert (kept.exists(), encoded.exists()) == (True, False)


def test_clips_of_other_waves_leave_the_folder(land):
    land.film("aws", "tokyo")
    land.train()
    later = land.film("aws", "tokyo", wave="w0002")

    staged = land.footage.stage_train(["w0002"], held_out_cities=())
    assert names(staged.folder) == sorted(later)


def test_too_much_footage_is_refused_before_anything_is_fetched(land):
    land.film("aws", "tokyo")
    small = SiteFootage(land.federation, "aws", land.footage.root, max_mb=0.004)

    with pytest.raises(
        BudgetExceededError, match=r"2 clips .* take 0\.0 MB; expected at most 0\.0 MB"
    ):
        small.stage_train([WAVE], held_out_cities=())
    assert not list((land.footage.root / "train").glob("videos/*"))
    assert small.stage_train([WAVE], held_out_cities=(), max_clips=1).num_clips == 1


@pytest.mark.parametrize("left", ["nothing", "erased"])
def test_a_clip_whose_bytes_are_gone_on_purpose_is_left_out_and_counted(land, left):
    ids = land.film("aws", "tokyo")
    store = land.federation.store("aws")
    ((key, _),) = store.list("packs")
    content = bytearray(store.get(key))
    content[1536 : 1536 + len(ERASED)] = ERASED
    store.put(key, bytes(content)) if left == "erased" else store.delete(key)

    staged = land.train()
    assert staged.num_lost == (1 if left == "erased" else 2)
    assert len(listed(staged.folder)) == staged.num_clips == len(ids) - staged.num_lost


def test_a_damaged_pack_is_an_error_and_leaves_nothing_half(land):
    land.film("aws", "tokyo")
    store = land.federation.store("aws")
    ((key, size),) = store.list("packs")
    store.put(key, b"x" * size)

    with pytest.raises(StoreError, match="catalog repair"):
        land.train()
    assert not list(land.footage.root.rglob("*.partial"))
    assert not (land.footage.root / "train" / "clips.jsonl").exists()


def test_a_site_without_clips_has_an_empty_folder(land):
    land.film("gcp", "cairo")
    assert land.train().num_clips == 0
