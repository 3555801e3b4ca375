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
            cast(recipe_id as varchar) as recipe_id,
            cast(scene_id as varchar) as scene_id,
            cast(sketch_recipe_id as varchar) as sketch_recipe_id,
            cast(content_sha256 as varchar) as content_sha256,
            cast(wave as varchar) as wave,
            cast(city as varchar) as city,
            cast(institution as varchar) as institution,
            cast(generator as varchar) as generator,
            cast(generator_version as varchar) as generator_version,
            cast(tier as varchar) as tier,
            cast(pack_key as varchar) as pack_key,
            cast(index as integer) as index,
            cast(num_frames as integer) as num_frames,
            cast(duration_s as double) as duration_s,
            cast(size_bytes as bigint) as size_bytes,
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
