-- Made by `make marts-sql` from dbt/models/staging/stg_round_deltas.sql; change that.
create or replace view worldloop_marts.stg_round_deltas as
with log_rows as (

    select
        round,
        site,
        content_sha256,
        status,
        num_clips,
        num_steps,
        size_bytes,
        staleness,
        took_s,
        gpu_s,
        loss_before,
        loss_after,
        norm,
        log_site
    from (
        select
            cast(round as string) as round,
            cast(site as string) as site,
            cast(content_sha256 as string) as content_sha256,
            cast(status as string) as status,
            cast(num_clips as int64) as num_clips,
            cast(num_steps as int64) as num_steps,
            cast(size_bytes as int64) as size_bytes,
            cast(staleness as int64) as staleness,
            cast(took_s as float64) as took_s,
            cast(gpu_s as float64) as gpu_s,
            cast(loss_before as float64) as loss_before,
            cast(loss_after as float64) as loss_after,
            cast(norm as float64) as norm,
            origin as log_site,
            row_number() over (partition by round, site order by origin) as occurrence
        from worldloop.round_deltas
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        round,
        site,
        content_sha256,

        -- strings
        status,

        -- numerics
        num_clips,
        num_steps,
        size_bytes,
        staleness,
        took_s,
        gpu_s,
        loss_before,
        loss_after,
        norm
    from log_rows

)

select * from final
