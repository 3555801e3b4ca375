-- Made by `make marts-sql` from dbt/models/staging/stg_rounds.sql; change that.
create or replace view worldloop_marts.stg_rounds as
with log_rows as (

    select
        round,
        base_round,
        adapter_sha256,
        model,
        strategy,
        codec,
        outcome,
        num_sites,
        num_deltas,
        size_bytes,
        lineage_depth,
        took_s,
        loss_before,
        loss_after,
        opened_at,
        ended_at,
        log_site
    from (
        select
            cast(round as string) as round,
            cast(base_round as string) as base_round,
            cast(adapter_sha256 as string) as adapter_sha256,
            cast(model as string) as model,
            cast(strategy as string) as strategy,
            cast(codec as string) as codec,
            cast(outcome as string) as outcome,
            cast(num_sites as int64) as num_sites,
            cast(num_deltas as int64) as num_deltas,
            cast(size_bytes as int64) as size_bytes,
            cast(lineage_depth as int64) as lineage_depth,
            cast(took_s as float64) as took_s,
            cast(loss_before as float64) as loss_before,
            cast(loss_after as float64) as loss_after,
            cast(opened_at as timestamp) as opened_at,
            cast(ended_at as timestamp) as ended_at,
            origin as log_site,
            row_number() over (partition by round order by origin) as occurrence
        from worldloop.rounds
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        round,
        base_round,
        adapter_sha256,

        -- strings
        log_site as site,
        model,
        strategy,
        codec,
        outcome,

        -- numerics
        num_sites,
        num_deltas,
        size_bytes,
        lineage_depth,
        took_s,
        loss_before,
        loss_after,

        -- timestamps
        opened_at,
        ended_at
    from log_rows

)

select * from final
