-- Made by `make marts-sql` from dbt/models/staging/stg_projections.sql; change that.
create or replace view worldloop_marts.stg_projections as
with log_rows as (

    select
        site,
        projection,
        measured_at,
        repaired_at,
        num_rows,
        size_bytes,
        num_behind,
        num_requests,
        lag_s,
        recall,
        took_s,
        log_site
    from (
        select
            cast(site as string) as site,
            cast(projection as string) as projection,
            cast(measured_at as timestamp) as measured_at,
            cast(repaired_at as timestamp) as repaired_at,
            cast(num_rows as int64) as num_rows,
            cast(size_bytes as int64) as size_bytes,
            cast(num_behind as int64) as num_behind,
            cast(num_requests as int64) as num_requests,
            cast(lag_s as float64) as lag_s,
            cast(recall as float64) as recall,
            cast(took_s as float64) as took_s,
            origin as log_site,
            row_number() over (partition by site, projection, measured_at order by origin) as occurrence
        from worldloop.projections
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- strings
        site,
        projection,

        -- numerics
        num_rows,
        size_bytes,
        num_behind,
        num_requests,
        lag_s,
        recall,
        took_s,

        -- timestamps
        measured_at,
        repaired_at
    from log_rows

)

select * from final
