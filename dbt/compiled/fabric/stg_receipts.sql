-- Made by `make marts-sql` from dbt/models/staging/stg_receipts.sql; change that.
create or alter view worldloop_marts.stg_receipts as
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
            cast(receipt_id as varchar(8000)) as receipt_id,
            cast(recipe_id as varchar(8000)) as recipe_id,
            cast(wave as varchar(8000)) as wave,
            cast(run_id as varchar(8000)) as run_id,
            cast(city as varchar(8000)) as city,
            cast(step as varchar(8000)) as step,
            cast(guardrail as varchar(8000)) as guardrail,
            cast(resumed as bit) as resumed,
            cast(cpu_s as float) as cpu_s,
            cast(gpu_s as float) as gpu_s,
            cast(peak_rss_mb as float) as peak_rss_mb,
            cast(ms_per_step as float) as ms_per_step,
            cast(tflops as float) as tflops,
            cast(peak_gpu_gb as float) as peak_gpu_gb,
            cast(busy_share as float) as busy_share,
            cast(finished_at as datetime2(6)) as finished_at,
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
