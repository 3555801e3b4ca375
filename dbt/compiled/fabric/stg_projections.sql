-- Made by `make marts-sql` from dbt/models/staging/stg_projections.sql; change that.
create or alter view worldloop_marts.stg_projections as
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
            cast(site as varchar(8000)) as site,
            cast(projection as varchar(8000)) as projection,
            cast(measured_at as datetime2(6)) as measured_at,
            cast(repaired_at as datetime2(6)) as repaired_at,
            cast(num_rows as bigint) as num_rows,
            cast(size_bytes as bigint) as size_bytes,
            cast(num_behind as bigint) as num_behind,
            cast(num_requests as bigint) as num_requests,
            cast(lag_s as float) as lag_s,
            cast(recall as float) as recall,
            cast(took_s as float) as took_s,
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
