{% set columns = {
    'round': 'varchar',
    'base_round': 'varchar',
    'adapter_sha256': 'varchar',
    'model': 'varchar',
    'strategy': 'varchar',
    'codec': 'varchar',
    'outcome': 'varchar',
    'num_sites': 'bigint',
    'num_deltas': 'bigint',
    'size_bytes': 'bigint',
    'lineage_depth': 'bigint',
    'took_s': 'double',
    'loss_before': 'double',
    'loss_after': 'double',
    'opened_at': 'timestamptz',
    'ended_at': 'timestamptz',
} %}

with log_rows as (

    {{ committed_rows('shared', 'rounds', ['round'], columns) }}

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
