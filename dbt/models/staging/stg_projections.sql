{% set columns = {
    'site': 'varchar',
    'projection': 'varchar',
    'measured_at': 'timestamptz',
    'repaired_at': 'timestamptz',
    'num_rows': 'bigint',
    'size_bytes': 'bigint',
    'num_behind': 'bigint',
    'num_requests': 'bigint',
    'lag_s': 'double',
    'recall': 'double',
    'took_s': 'double',
} %}

with log_rows as (

    {{ committed_rows('shared', 'projections', ['site', 'projection', 'measured_at'], columns) }}

),

final as (

    select
        -- strings
        site,
        projection,

        -- numerics
        num_rows,
        size_bytes,
        num_behind,
        num_requests,
        lag_s,
        recall,
        took_s,

        -- timestamps
        measured_at,
        repaired_at
    from log_rows

)

select * from final
