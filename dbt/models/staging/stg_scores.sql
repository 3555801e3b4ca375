{% set columns = {
    'recipe_id': 'varchar',
    'wave': 'varchar',
    'reason': 'varchar',
    'accepted': 'boolean',
    'motion_mean_px': 'double',
    'sharpness': 'double',
    'exposure_mean': 'double',
    'num_cuts': 'integer',
} %}

with log_rows as (

    {{ committed_rows('shared', 'scores', ['recipe_id'], columns) }}

),

final as (

    select
        -- ids
        recipe_id,
        wave,

        -- strings
        log_site as site,
        reason,

        -- numerics
        motion_mean_px,
        sharpness,
        exposure_mean,
        num_cuts,

        -- booleans
        accepted as is_accepted
    from log_rows

)

select * from final
