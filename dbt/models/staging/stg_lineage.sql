{% set columns = {
    'recipe_id': 'varchar',
    'scene_id': 'varchar',
    'sketch_recipe_id': 'varchar',
    'content_sha256': 'varchar',
    'wave': 'varchar',
    'city': 'varchar',
    'institution': 'varchar',
    'generator': 'varchar',
    'generator_version': 'varchar',
    'tier': 'varchar',
    'pack_key': 'varchar',
    'index': 'integer',
    'num_frames': 'integer',
    'duration_s': 'double',
    'size_bytes': 'bigint',
} %}

with log_rows as (

    {{ committed_rows('shared', 'lineage', ['recipe_id'], columns) }}

),

final as (

    select
        -- ids
        recipe_id,
        scene_id,
        sketch_recipe_id,
        content_sha256,
        wave,

        -- strings
        log_site as site,
        city,
        institution,
        generator,
        generator_version,
        coalesce(tier, 'sketch') as tier, -- rows from before there were tiers
        pack_key,

        -- numerics
        {{ identifier('index') }} as clip_index,
        num_frames,
        duration_s,
        size_bytes
    from log_rows

)

select * from final
