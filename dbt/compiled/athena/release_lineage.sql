-- Made by `make marts-sql` from dbt/models/marts/release_lineage.sql; change that.
create or replace view worldloop_marts.release_lineage as
with release_clips as (

    select * from worldloop_marts.stg_release_clips

),

releases as (

    select * from worldloop_marts.stg_releases

),

lineage as (

    select * from worldloop_marts.stg_lineage

),

final as (

    select
        -- ids
        release_clips.release || '/' || release_clips.recipe_id as release_clip_id,
        release_clips.release,
        releases.root_hash,
        release_clips.recipe_id,
        lineage.scene_id,
        lineage.sketch_recipe_id,
        release_clips.content_sha256,
        release_clips.pack_key,

        -- strings
        releases.site,
        release_clips.wave,
        lineage.city,
        lineage.institution,
        lineage.generator,
        lineage.generator_version,
        lineage.tier,

        -- numerics
        lineage.clip_index,
        lineage.duration_s
    from release_clips
    left join releases on release_clips.release = releases.wave
    left join lineage on release_clips.recipe_id = lineage.recipe_id

)

select * from final
