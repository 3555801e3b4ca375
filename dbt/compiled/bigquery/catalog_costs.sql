-- Made by `make marts-sql` from dbt/models/marts/catalog_costs.sql; change that.
create or replace view worldloop_marts.catalog_costs as
with facts as (

    select
        *,
        date(measured_at) as measured_on
    from worldloop_marts.stg_projections

),

newest as (

    select
        *,
        row_number() over (
            partition by site, projection, measured_on order by measured_at desc
        ) as age_rank
    from facts

),

grown as (

    select
        site,
        projection,
        measured_on,
        num_rows,
        size_bytes,
        num_rows - lag(num_rows) over (
            partition by site, projection order by measured_on
        ) as num_new_rows
    from newest
    where age_rank = 1

),

days as (

    select
        site,
        projection,
        measured_on,
        count(*) as num_measured,
        cast(sum(num_requests) as int64) as num_requests,
        sum(took_s) as took_s
    from facts
    group by site, projection, measured_on

),

final as (

    select
        -- strings
        days.site,
        days.projection,

        -- numerics
        days.num_measured,
        days.num_requests,
        days.took_s,
        grown.num_rows,
        grown.size_bytes,
        grown.num_new_rows,
        case
            when grown.num_new_rows > 0
                then 1000 * days.num_requests / nullif(grown.num_new_rows, 0)
        end as requests_per_1000_new_rows,

        -- timestamps
        days.measured_on
    from days
    inner join grown
        on days.site = grown.site
        and days.projection = grown.projection
        and days.measured_on = grown.measured_on

)

select * from final
