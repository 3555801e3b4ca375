{% set columns = {
    'round': 'varchar',
    'site': 'varchar',
    'content_sha256': 'varchar',
    'status': 'varchar',
    'num_clips': 'bigint',
    'num_steps': 'bigint',
    'size_bytes': 'bigint',
    'staleness': 'bigint',
    'took_s': 'double',
    'gpu_s': 'double',
    'loss_before': 'double',
    'loss_after': 'double',
    'norm': 'double',
} %}

with log_rows as (

    {{ committed_rows('shared', 'round_deltas', ['round', 'site'], columns) }}

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
