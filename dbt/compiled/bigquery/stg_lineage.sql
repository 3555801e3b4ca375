-- Made by `make marts-sql` from dbt/models/staging/stg_lineage.sql; change that.
create or replace view worldloop_marts.stg_lineage as
with log_rows as (

    select
        recipe_id,
        scene_id,
        sketch_recipe_id,
        content_sha256,
        wave,
        city,
        institution,
        generator,
        generator_version,
        tier,
        pack_key,
        index,
        num_frames,
        duration_s,
        size_bytes,
        log_site
    from (
        select
            cast(recipe_id as string) as recipe_id,
            cast(scene_id as string) as scene_id,
            cast(sketch_recipe_id as string) as sketch_recipe_id,
            cast(content_sha256 as string) as content_sha256,
            cast(wave as string) as wave,
            cast(city as string) as city,
            cast(institution as string) as institution,
            cast(generator as string) as generator,
            cast(generator_version as string) as generator_version,
            cast(tier as string) as tier,
            cast(pack_key as string) as pack_key,
            cast(index as int64) as index,
            cast(num_frames as int64) as num_frames,
            cast(duration_s as float64) as duration_s,
            cast(size_bytes as int64) as size_bytes,
            origin as log_site,
            row_number() over (partition by recipe_id order by origin) as occurrence
        from worldloop.lineage
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        recipe_id,
        scene_id,
        sketch_recipe_id,
        content_sha256,
        wave,

        -- strings
        log_site as site,
        city,
        institution,
        generator,
        generator_version,
        coalesce(tier, 'sketch') as tier, -- rows from before there were tiers
        pack_key,

        -- numerics
        index as clip_index,
        num_frames,
        duration_s,
        size_bytes
    from log_rows

)

select * from final
