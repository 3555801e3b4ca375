{% set columns = {
    'recipe_id': 'varchar',
    'duplicate_of': 'varchar',
    'wave': 'varchar',
    'model_id': 'varchar',
    'status': 'varchar',
    'payload_kind': 'varchar',
    'similarity': 'double',
    'epsilon': 'double',
} %}

with log_rows as (

    {{ committed_rows('shared', 'duplicates', ['recipe_id'], columns) }}

),

final as (

    select
        -- ids
        recipe_id,
        duplicate_of,
        wave,
        model_id,

        -- strings
        log_site as site,
        status,
        payload_kind as match_kind,

        -- numerics
        similarity,
        epsilon
    from log_rows

)

select * from final
