{% set columns = {
    'wave': 'varchar',
    'site': 'varchar',
    'root_hash': 'varchar',
    'atlas_hash': 'varchar',
    'num_clips': 'bigint',
    'num_rejected': 'bigint',
    'duration_s': 'double',
} %}

with log_rows as (

    {{ committed_rows('shared', 'releases', ['wave'], columns) }}

),

final as (

    select
        -- ids
        wave,

        -- strings
        site,
        root_hash,
        atlas_hash,

        -- numerics
        num_clips,
        num_rejected,
        duration_s
    from log_rows

)

select * from final
