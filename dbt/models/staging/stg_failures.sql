{% set columns = {
    'recipe_id': 'varchar',
    'scene_id': 'varchar',
    'wave': 'varchar',
    'city': 'varchar',
    'institution': 'varchar',
    'stage': 'varchar',
    'reason': 'varchar',
    'index': 'integer',
} %}

with log_rows as (

    {{ committed_rows('private', 'failures', ['recipe_id'], columns) }}

),

final as (

    select
        -- ids
        recipe_id,
        scene_id,
        wave,

        -- strings
        log_site as site,
        city,
        institution,
        stage,
        reason,

        -- numerics
        {{ identifier('index') }} as clip_index
    from log_rows

)

select * from final
