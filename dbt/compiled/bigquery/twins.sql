-- Made by `make marts-sql` from dbt/models/marts/twins.sql; change that.
create or replace view worldloop_marts.twins as
with lineage as (

    select * from worldloop_marts.stg_lineage

),

generations as (

    select * from worldloop_marts.stg_generations

),

outcomes as (

    select * from worldloop_marts.clip_outcomes

),

final as (

    select
        -- ids
        generations.recipe_id,
        generations.sketch_recipe_id,
        generations.draft_recipe_id,
        generations.scene_id,
        clips.wave,

        -- strings
        clips.city,
        clips.institution,
        clips.generator,
        generations.tier,
        generations.control,
        generations.guardrail,
        outcomes.outcome,
        clips.pack_key,
        sketches.pack_key as sketch_pack_key
    from generations
    inner join lineage as clips on generations.recipe_id = clips.recipe_id
    inner join lineage as sketches on generations.sketch_recipe_id = sketches.recipe_id
    left join outcomes on generations.recipe_id = outcomes.recipe_id

)

select * from final
