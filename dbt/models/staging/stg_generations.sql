{% set columns = {
    'recipe_id': 'varchar',
    'scene_id': 'varchar',
    'sketch_recipe_id': 'varchar',
    'draft_recipe_id': 'varchar',
    'wave': 'varchar',
    'model': 'varchar',
    'revision': 'varchar',
    'checkpoint': 'varchar',
    'tier': 'varchar',
    'profile': 'varchar',
    'sampler': 'varchar',
    'control': 'varchar',
    'guardrail': 'varchar',
    'num_steps': 'integer',
    'guidance': 'double',
    'tiny': 'boolean',
} %}

with log_rows as (

    {{ committed_rows('private', 'generations', ['recipe_id'], columns) }}

),

final as (

    select
        -- ids
        recipe_id,
        scene_id,
        sketch_recipe_id,
        draft_recipe_id,
        wave,

        -- strings
        log_site as site,
        model,
        revision,
        {{ identifier('checkpoint') }},
        tier,
        profile,
        sampler,
        control,
        guardrail,

        -- numerics
        num_steps,
        guidance,

        -- booleans
        tiny as is_tiny
    from log_rows

)

select * from final
