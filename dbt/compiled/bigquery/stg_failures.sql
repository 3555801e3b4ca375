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
            cast(recipe_id as string) as recipe_id,
            cast(scene_id as string) as scene_id,
            cast(wave as string) as wave,
            cast(city as string) as city,
            cast(institution as string) as institution,
            cast(stage as string) as stage,
            cast(reason as string) as reason,
            cast(index as int64) as index,
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
