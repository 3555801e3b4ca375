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
            cast(receipt_id as string) as receipt_id,
            cast(recipe_id as string) as recipe_id,
            cast(wave as string) as wave,
            cast(run_id as string) as run_id,
            cast(city as string) as city,
            cast(step as string) as step,
            cast(guardrail as string) as guardrail,
            cast(resumed as bool) as resumed,
            cast(cpu_s as float64) as cpu_s,
            cast(gpu_s as float64) as gpu_s,
            cast(peak_rss_mb as float64) as peak_rss_mb,
            cast(ms_per_step as float64) as ms_per_step,
            cast(tflops as float64) as tflops,
            cast(peak_gpu_gb as float64) as peak_gpu_gb,
            cast(busy_share as float64) as busy_share,
            cast(finished_at as timestamp) as finished_at,
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
