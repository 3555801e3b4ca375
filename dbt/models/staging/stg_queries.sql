{% set columns = {
    'query_id': 'varchar',
    'model_id': 'varchar',
    'condition': 'varchar',
    'num_wanted': 'integer',
    'num_found': 'integer',
    'took_ms': 'double',
    'asked_at': 'timestamptz',
} %}

with log_rows as (

    {{ committed_rows('private', 'queries', ['query_id'], columns) }}

),

final as (

    select
        -- ids
        query_id,
        model_id,

        -- strings
        log_site as site,
        condition,

        -- numerics
        num_wanted,
        num_found,
        took_ms,

        -- timestamps
        asked_at
    from log_rows

)

select * from final
