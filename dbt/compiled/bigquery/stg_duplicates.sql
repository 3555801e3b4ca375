-- Made by `make marts-sql` from dbt/models/staging/stg_duplicates.sql; change that.
create or replace view worldloop_marts.stg_duplicates as
with log_rows as (

    select
        recipe_id,
        duplicate_of,
        wave,
        model_id,
        status,
        payload_kind,
        similarity,
        epsilon,
        log_site
    from (
        select
            cast(recipe_id as string) as recipe_id,
            cast(duplicate_of as string) as duplicate_of,
            cast(wave as string) as wave,
            cast(model_id as string) as model_id,
            cast(status as string) as status,
            cast(kind as string) as payload_kind,
            cast(similarity as float64) as similarity,
            cast(epsilon as float64) as epsilon,
            origin as log_site,
            row_number() over (partition by recipe_id order by origin) as occurrence
        from worldloop.duplicates
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        recipe_id,
        duplicate_of,
        wave,
        model_id,

        -- strings
        log_site as site,
        status,
        payload_kind as match_kind,

        -- numerics
        similarity,
        epsilon
    from log_rows

)

select * from final
