-- Made by `make marts-sql` from dbt/models/staging/stg_blocked.sql; change that.
create or alter view worldloop_marts.stg_blocked as
with log_rows as (

    select
        recipe_id,
        scene_id,
        wave,
        city,
        institution,
        guard,
        category,
        reason,
        [index],
        log_site
    from (
        select
            cast(recipe_id as varchar(8000)) as recipe_id,
            cast(scene_id as varchar(8000)) as scene_id,
            cast(wave as varchar(8000)) as wave,
            cast(city as varchar(8000)) as city,
            cast(institution as varchar(8000)) as institution,
            cast(guard as varchar(8000)) as guard,
            cast(category as varchar(8000)) as category,
            cast(reason as varchar(8000)) as reason,
            cast([index] as int) as [index],
            origin as log_site,
            row_number() over (partition by recipe_id order by origin) as occurrence
        from worldloop.blocked
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
        guard,
        category,
        reason,

        -- numerics
        [index] as clip_index
    from log_rows

)

select * from final
