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
            cast(round as varchar) as round,
            cast(base_round as varchar) as base_round,
            cast(adapter_sha256 as varchar) as adapter_sha256,
            cast(model as varchar) as model,
            cast(strategy as varchar) as strategy,
            cast(codec as varchar) as codec,
            cast(outcome as varchar) as outcome,
            cast(num_sites as bigint) as num_sites,
            cast(num_deltas as bigint) as num_deltas,
            cast(size_bytes as bigint) as size_bytes,
            cast(lineage_depth as bigint) as lineage_depth,
            cast(took_s as double) as took_s,
            cast(loss_before as double) as loss_before,
            cast(loss_after as double) as loss_after,
            cast(opened_at as timestamp(6)) as opened_at,
            cast(ended_at as timestamp(6)) as ended_at,
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
