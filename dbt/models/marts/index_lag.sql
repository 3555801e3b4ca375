with facts as (

    select
        *,
        {{ utc_day('measured_at') }} as measured_on
    from {{ ref('stg_projections') }}

),

newest as (

    select
        *,
        row_number() over (
            partition by site, projection, measured_on order by measured_at desc
        ) as age_rank
    from facts

),

lags as (

    select
        site,
        projection,
        measured_on,
        lag_s,
        row_number() over (partition by site, projection, measured_on order by lag_s) as lag_rank,
        count(*) over (partition by site, projection, measured_on) as num_lags
    from facts
    where lag_s is not null

),

spread as (

    -- the smallest lag that so many of a hundred do not exceed
    select
        site,
        projection,
        measured_on,
        min(case when 100 * lag_rank >= 50 * num_lags then lag_s end) as lag_p50_s,
        min(case when 100 * lag_rank >= 95 * num_lags then lag_s end) as lag_p95_s,
        max(lag_s) as lag_max_s
    from lags
    group by site, projection, measured_on

),

days as (

    select
        site,
        projection,
        measured_on,
        count(*) as num_measured
    from facts
    group by site, projection, measured_on

),

final as (

    select
        -- strings
        newest.site,
        newest.projection,

        -- numerics
        days.num_measured,
        spread.lag_p50_s,
        spread.lag_p95_s,
        spread.lag_max_s,
        newest.lag_s,
        newest.num_behind,
        newest.num_rows,
        newest.size_bytes,
        newest.recall,

        -- timestamps
        newest.measured_on,
        newest.measured_at,
        newest.repaired_at
    from newest
    inner join days
        on newest.site = days.site
        and newest.projection = days.projection
        and newest.measured_on = days.measured_on
    left join spread
        on newest.site = spread.site
        and newest.projection = spread.projection
        and newest.measured_on = spread.measured_on
    where newest.age_rank = 1

)

select * from final
