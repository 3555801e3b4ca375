-- Made by `make marts-sql` from dbt/models/staging/stg_release_clips.sql; change that.
create or alter view worldloop_marts.stg_release_clips as
with log_rows as (

    select
        release,
        recipe_id,
        wave,
        content_sha256,
        pack_key,
        log_site
    from (
        select
            cast(release as varchar(8000)) as release,
            cast(recipe_id as varchar(8000)) as recipe_id,
            cast(wave as varchar(8000)) as wave,
            cast(content_sha256 as varchar(8000)) as content_sha256,
            cast(pack_key as varchar(8000)) as pack_key,
            origin as log_site,
            row_number() over (partition by release, recipe_id order by origin) as occurrence
        from worldloop.release_clips
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        release,
        recipe_id,
        wave,
        content_sha256,

        -- strings
        log_site as site,
        pack_key
    from log_rows

)

select * from final
