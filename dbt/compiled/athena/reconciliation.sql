-- Made by `make marts-sql` from dbt/models/marts/reconciliation.sql; change that.
create or replace view worldloop_marts.reconciliation as
with checks as (

    select
        *,
        row_number() over (partition by site, origin, of_kind order by measured_at desc) as age_rank
    from worldloop_marts.stg_reconciliations

),

newest as (

    select * from checks
    where age_rank = 1

),

summed as (

    select
        site,
        origin,
        of_kind,
        count(*) as num_checks,
        count(case when num_missing > 0 then 1 end) as num_checks_with_holes,
        cast(sum(num_repaired) as bigint) as num_repaired_ever
    from checks
    group by site, origin, of_kind

),

final as (

    select
        -- strings
        newest.site,
        newest.origin,
        newest.of_kind,

        -- numerics
        newest.num_expected,
        newest.num_missing,
        newest.num_repaired,
        newest.num_missing - newest.num_repaired as num_unrepaired,
        summed.num_checks,
        summed.num_checks_with_holes,
        summed.num_repaired_ever,

        -- timestamps
        newest.measured_at
    from newest
    inner join summed
        on newest.site = summed.site
        and newest.origin = summed.origin
        and newest.of_kind = summed.of_kind

)

select * from final
