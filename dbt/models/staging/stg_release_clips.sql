{% set columns = {
    'release': 'varchar',
    'recipe_id': 'varchar',
    'wave': 'varchar',
    'content_sha256': 'varchar',
    'pack_key': 'varchar',
} %}

with log_rows as (

    {{ committed_rows('shared', 'release_clips', ['release', 'recipe_id'], columns) }}

),

final as (

    select
        -- ids
        release,
        recipe_id,
        wave,
        content_sha256,

        -- strings
        log_site as site,
        pack_key
    from log_rows

)

select * from final
