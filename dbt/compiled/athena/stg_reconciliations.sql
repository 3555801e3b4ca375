-- Made by `make marts-sql` from dbt/models/staging/stg_reconciliations.sql; change that.
create or replace view worldloop_marts.stg_reconciliations as
with log_rows as (

    select
        site,
        origin,
        of_kind,
        measured_at,
        num_expected,
        num_missing,
        num_repaired,
        log_site
    from (
        select
            cast(site as varchar) as site,
            cast(origin as varchar) as origin,
            cast(of_kind as varchar) as of_kind,
            cast(measured_at as timestamp(6)) as measured_at,
            cast(num_expected as bigint) as num_expected,
            cast(num_missing as bigint) as num_missing,
            cast(num_repaired as bigint) as num_repaired,
            site as log_site,
            row_number() over (partition by site, origin, of_kind, measured_at order by site) as occurrence
        from worldloop.reconciliations
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- strings
        site,
        origin,
        of_kind,

        -- numerics
        num_expected,
        num_missing,
        num_repaired,

        -- timestamps
        measured_at
    from log_rows

)

select * from final
