-- Made by `make marts-sql` from dbt/models/staging/stg_rounds.sql; change that.
create or alter view worldloop_marts.stg_rounds as
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
            cast(round as varchar(8000)) as round,
            cast(base_round as varchar(8000)) as base_round,
            cast(adapter_sha256 as varchar(8000)) as adapter_sha256,
            cast(model as varchar(8000)) as model,
            cast(strategy as varchar(8000)) as strategy,
            cast(codec as varchar(8000)) as codec,
            cast(outcome as varchar(8000)) as outcome,
            cast(num_sites as bigint) as num_sites,
            cast(num_deltas as bigint) as num_deltas,
            cast(size_bytes as bigint) as size_bytes,
            cast(lineage_depth as bigint) as lineage_depth,
            cast(took_s as float) as took_s,
            cast(loss_before as float) as loss_before,
            cast(loss_after as float) as loss_after,
            cast(opened_at as datetime2(6)) as opened_at,
            cast(ended_at as datetime2(6)) as ended_at,
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
