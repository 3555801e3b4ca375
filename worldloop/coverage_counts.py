"""How much footage the places of the atlas have, those without any included, and which values it shows.

Pictures of it are drawn by `coverage_map` and `coverage_heat`; what is *possible* stands in `scenes`.
"""

import numpy as np
import polars as pl

from worldloop.atlas.atlas import Atlas
from worldloop.scenes.coverage import PAIRS, valid_pairs
from worldloop.scenes.dimensions import DIMENSIONS, names_of, space_of

PLACE = ("city", "institution")
PAIR_COLUMNS = ("first", "first_value", "second", "second_value")
_COUNTS = ("num_planned", "num_made", "num_accepted")


def count_places(atlas: Atlas, planned: pl.DataFrame, clips: pl.DataFrame) -> pl.DataFrame:
    """One row a place of the atlas, in its order, also of places that nobody planned.

    Args:
        atlas: Which places there are.
        planned: `city` and `institution` of every planned clip.
        clips: The same of every clip that was made, with `accepted`.

    Returns:
        city, name, country, country_name, continent, region, koeppen, institution, num_planned,
        num_made, num_accepted. Clips of places that the atlas does not have are left out.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> made = pl.DataFrame({"city": ["lima"], "institution": ["zoo"], "accepted": [True]})
        >>> table = count_places(load_atlas(), made.drop("accepted"), made)
        >>> table.filter(pl.col("num_accepted") > 0).select("city", "institution").rows()
        [('lima', 'zoo')]
    """
    counts = {
        "num_planned": planned.group_by(PLACE).agg(num_planned=pl.len()),
        "num_made": clips.group_by(PLACE).agg(num_made=pl.len()),
        "num_accepted": clips.filter("accepted").group_by(PLACE).agg(num_accepted=pl.len()),
    }
    table = place_table(atlas)
    for found in counts.values():
        table = table.join(found, on=PLACE, how="left", maintain_order="left")
    return table.with_columns(pl.col(_COUNTS).fill_null(0).cast(pl.Int64))


def accept_counts(atlas: Atlas, clips: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """Clips accepted and made of each place that lost some, in the order of the places' names.

    Args:
        atlas: Clips of places that it does not know are left out.
        clips: `city`, `institution` and `accepted` of every clip that was made.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> made = {"city": ["lima"] * 3, "institution": ["zoo", "zoo", "park"]}
        >>> accept_counts(load_atlas(), pl.DataFrame({**made, "accepted": [True, False, True]}))
        {'lima/zoo': (1, 2)}
    """
    counted = clips.group_by(PLACE).agg(num_accepted=pl.col("accepted").sum(), num_made=pl.len())
    lost = counted.filter(pl.col("num_accepted") < pl.col("num_made")).sort(PLACE)
    return {
        f"{city}/{kind}": (accepted, made)
        for city, kind, accepted, made in lost.iter_rows()
        if city in atlas.cities and kind in atlas.institutions and atlas.has(city, kind)
    }


def place_table(atlas: Atlas) -> pl.DataFrame:
    """Every place of the atlas with the facts that coverage is grouped by, in the atlas's order."""
    rows = [
        {
            "city": city.key,
            "name": city.name,
            "country": city.country,
            "country_name": atlas.countries[city.country].name,
            "continent": city.continent,
            "region": city.region,
            "koeppen": city.koeppen,
            "institution": kind,
        }
        for city in atlas.cities.values()
        for kind in atlas.institutions
        if atlas.has(city.key, kind)
    ]
    return pl.DataFrame(rows)


def by_city(places: pl.DataFrame) -> pl.DataFrame:
    """Sums of `count_places` by city, in its order."""
    facts = ("city", "name", "country", "country_name", "continent", "region", "koeppen")
    return places.group_by(facts, maintain_order=True).agg(pl.col(_COUNTS).sum())


def summary(places: pl.DataFrame) -> dict[str, int]:
    """How many cities, countries, institutions, climates, regions and places have accepted footage.

    Returns:
        `num_cities_covered` and `num_cities`, and so on; then the sums of the three counts.
    """
    covered = places.filter(pl.col("num_accepted") > 0)
    nouns = {
        "cities": "city",
        "countries": "country",
        "institutions": "institution",
        "koeppen_classes": "koeppen",
        "regions": "region",
    }
    found: dict[str, int] = {}
    for noun, column in nouns.items():
        found[f"num_{noun}_covered"] = covered[column].n_unique() if covered.height else 0
        found[f"num_{noun}"] = places[column].n_unique()
    found |= {"num_places_covered": covered.height, "num_places": places.height}
    return found | {name: int(places[name].sum()) for name in _COUNTS}


def emptiest(places: pl.DataFrame, by: str, *, most: int = 6) -> pl.DataFrame:
    """The groups of places of which the smallest share has accepted footage.

    Args:
        places: What `count_places` gives.
        by: Column to group by, such as `region`.
        most: How many groups.

    Returns:
        The group, num_covered, num_places and num_accepted; the emptiest first, of equal ones the largest.
    """
    groups = places.group_by(by).agg(
        num_covered=(pl.col("num_accepted") > 0).sum(),
        num_places=pl.len(),
        num_accepted=pl.col("num_accepted").sum(),
    )
    share = pl.col("num_covered") / pl.col("num_places")
    order = [share, pl.col("num_accepted"), -pl.col("num_places").cast(pl.Int64), pl.col(by)]
    return groups.sort(order).head(most)


def valid_pair_table(atlas: Atlas) -> pl.DataFrame:
    """Every pair of values of two dimensions that some possible scene has; takes some CPU seconds.

    Returns:
        `PAIR_COLUMNS`, for example `season`, `winter`, `weather`, `snow`.
    """
    space = space_of(atlas)
    frames = []
    for (first, second), cells in valid_pairs(space, space.has).items():
        names = [np.array(names_of(space, name)) for name in (first, second)]
        rows, columns = np.nonzero(cells)
        frames.append(
            pl.DataFrame(
                {
                    "first": np.full(len(rows), first),
                    "first_value": names[0][rows],
                    "second": np.full(len(rows), second),
                    "second_value": names[1][columns],
                }
            )
        )
    return pl.concat(frames)


def scene_values(scenes: pl.DataFrame) -> pl.DataFrame:
    """The values of the planned dimensions of scenes; null where a scene of an older version has none.

    Args:
        scenes: `scene_id`, and `scene` as a JSON record.

    Returns:
        scene_id and a column for each of `DIMENSIONS`.
    """
    values = [pl.col("scene").str.json_path_match(f"$.{name}").alias(name) for name in DIMENSIONS]
    return scenes.select("scene_id", *values)


def pair_coverage(valid: pl.DataFrame, values: pl.DataFrame) -> pl.DataFrame:
    """How many valid pairs of values the footage shows, by pair of dimensions.

    Args:
        valid: What `valid_pair_table` gives.
        values: A column for each of `DIMENSIONS`; one row a scene that counts.

    Returns:
        first, second, num_valid, num_covered and their ratio `share`; the worst pair first.
    """
    seen = pl.concat([_pairs_seen(values, first, second) for first, second in PAIRS])
    found = valid.join(seen.with_columns(seen=True), on=PAIR_COLUMNS, how="left")
    counted = found.group_by("first", "second").agg(
        num_valid=pl.len(), num_covered=pl.col("seen").fill_null(False).sum()
    )
    share = (pl.col("num_covered") / pl.col("num_valid")).alias("share")
    return counted.with_columns(share).sort("share", "first", "second")


def _pairs_seen(values: pl.DataFrame, first: str, second: str) -> pl.DataFrame:
    pairs = values.select(first_value=first, second_value=second).drop_nulls().unique()
    return pairs.select(
        pl.lit(first).alias("first"), "first_value", pl.lit(second).alias("second"), "second_value"
    )
