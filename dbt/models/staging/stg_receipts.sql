{% set columns = {
    'receipt_id': 'varchar',
    'recipe_id': 'varchar',
    'wave': 'varchar',
    'run_id': 'varchar',
    'city': 'varchar',
    'step': 'varchar',
    'guardrail': 'varchar',
    'resumed': 'boolean',
    'cpu_s': 'double',
    'gpu_s': 'double',
    'peak_rss_mb': 'double',
    'ms_per_step': 'double',
    'tflops': 'double',
    'peak_gpu_gb': 'double',
    'busy_share': 'double',
    'finished_at': 'timestamptz',
} %}

with log_rows as (

    {{ committed_rows('private', 'receipts', ['receipt_id'], columns) }}

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
