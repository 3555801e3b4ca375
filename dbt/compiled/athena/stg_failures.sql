-- Made by `make marts-sql` from dbt/models/staging/stg_failures.sql; change that.
create or replace view worldloop_marts.stg_failures as
with log_rows as (

    select
        recipe_id,
        scene_id,
        wave,
        city,
        institution,
        stage,
        reason,
        index,
        log_site
    from (
        select
            cast(recipe_id as varchar) as recipe_id,
            cast(scene_id as varchar) as scene_id,
            cast(wave as varchar) as wave,
            cast(city as varchar) as city,
            cast(institution as varchar) as institution,
            cast(stage as varchar) as stage,
            cast(reason as varchar) as reason,
            cast(index as integer) as index,
            origin as log_site,
            row_number() over (partition by recipe_id order by origin) as occurrence
        from worldloop.failures
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        recipe_id,
        scene_id,
        wave,

        -- strings
        log_site as site,
        city,
        institution,
        stage,
        reason,

        -- numerics
        index as clip_index
    from log_rows

)

select * from final
