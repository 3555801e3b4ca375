{% set columns = {
    'round': 'varchar',
    'wave': 'varchar',
    'root_hash': 'varchar',
} %}

with log_rows as (

    {{ committed_rows('shared', 'round_waves', ['round', 'wave'], columns) }}

),

final as (

    select
        -- ids
        round,
        wave,
        root_hash
    from log_rows

)

select * from final
