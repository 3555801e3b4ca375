-- Made by `make marts-sql` from dbt/models/staging/stg_superseded.sql; change that.
create or alter view worldloop_marts.stg_superseded as
with log_rows as (

    select
        recipe_id,
        superseded_by,
        payload_kind,
        similarity,
        log_site
    from (
        select
            cast(recipe_id as varchar(8000)) as recipe_id,
            cast(superseded_by as varchar(8000)) as superseded_by,
            cast(kind as varchar(8000)) as payload_kind,
            cast(similarity as float) as similarity,
            origin as log_site,
            row_number() over (partition by recipe_id, superseded_by order by origin) as occurrence
        from worldloop.superseded
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        recipe_id,
        superseded_by,

        -- strings
        log_site as site,
        payload_kind as match_kind,

        -- numerics
        similarity
    from log_rows

)

select * from final
