-- Made by `make marts-sql` from dbt/models/staging/stg_receipts.sql; change that.
create or replace view worldloop_marts.stg_receipts as
with log_rows as (

    select
        receipt_id,
        recipe_id,
        wave,
        run_id,
        city,
        step,
        guardrail,
        resumed,
        cpu_s,
        gpu_s,
        peak_rss_mb,
        ms_per_step,
        tflops,
        peak_gpu_gb,
        busy_share,
        finished_at,
        log_site
    from (
        select
            cast(receipt_id as varchar) as receipt_id,
            cast(recipe_id as varchar) as recipe_id,
            cast(wave as varchar) as wave,
            cast(run_id as varchar) as run_id,
            cast(city as varchar) as city,
            cast(step as varchar) as step,
            cast(guardrail as varchar) as guardrail,
            cast(resumed as boolean) as resumed,
            cast(cpu_s as double) as cpu_s,
            cast(gpu_s as double) as gpu_s,
            cast(peak_rss_mb as double) as peak_rss_mb,
            cast(ms_per_step as double) as ms_per_step,
            cast(tflops as double) as tflops,
            cast(peak_gpu_gb as double) as peak_gpu_gb,
            cast(busy_share as double) as busy_share,
            cast(finished_at as timestamp(6)) as finished_at,
            origin as log_site,
            row_number() over (partition by receipt_id order by origin) as occurrence
        from worldloop.receipts
    ) as numbered
    where occurrence = 1

),

final as (

    select
        -- ids
        receipt_id,
        recipe_id,
        wave,
        run_id,

        -- strings
        log_site as site,
        city,
        step,
        guardrail,

        -- numerics
        cpu_s,
        gpu_s,
        peak_rss_mb,
        ms_per_step,
        tflops,
        peak_gpu_gb,
        busy_share,

        -- booleans
        resumed as is_resumed,

        -- timestamps
        finished_at
    from log_rows

)

select * from final
