{% set columns = {
    'recipe_id': 'varchar',
    'superseded_by': 'varchar',
    'payload_kind': 'varchar',
    'similarity': 'double',
} %}

with log_rows as (

    {{ committed_rows('shared', 'superseded', ['recipe_id', 'superseded_by'], columns) }}

),

final as (

    select
        -- ids
        recipe_id,
        superseded_by,

        -- strings
        log_site as site,
        payload_kind as match_kind,

        -- numerics
        similarity
    from log_rows

)

select * from final
