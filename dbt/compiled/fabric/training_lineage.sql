-- Made by `make marts-sql` from dbt/models/marts/training_lineage.sql; change that.
create or alter view worldloop_marts.training_lineage as
with release_clips as (

    select * from worldloop_marts.stg_release_clips

),

releases as (

    select * from worldloop_marts.stg_releases

),

lineage as (

    select * from worldloop_marts.stg_lineage

),

generations as (

    select * from worldloop_marts.stg_generations

),

outcomes as (

    select * from worldloop_marts.clip_outcomes

),

checkpoint_clips as (

    select * from worldloop_marts.checkpoint_clips

),

trained as (

    -- the first promoted round whose plan names the release
    select
        waves.wave,
        waves.round,
        row_number() over (
            partition by waves.wave order by rounds.opened_at, rounds.round
        ) as first_rank
    from worldloop_marts.stg_round_waves as waves
    inner join worldloop_marts.stg_rounds as rounds on waves.round = rounds.round
    where rounds.outcome = 'promoted'

),

final as (

    select
        -- ids
        release_clips.release + '/' + release_clips.recipe_id as release_clip_id,
        release_clips.release,
        releases.root_hash,
        release_clips.recipe_id,
        release_clips.wave,
        release_clips.content_sha256,
        lineage.scene_id,
        lineage.sketch_recipe_id,
        generations.draft_recipe_id,
        checkpoint_clips.checkpoint_round,
        trained.round as trained_round,

        -- strings
        lineage.site,
        lineage.city,
        lineage.institution,
        lineage.generator,
        lineage.generator_version,
        lineage.tier,
        generations.model,
        generations.revision,
        generations.[checkpoint],
        generations.profile,
        generations.control,
        outcomes.outcome,
        release_clips.pack_key,

        -- numerics
        generations.num_steps,
        generations.guidance,
        lineage.duration_s,

        -- booleans
        cast(case when lineage.recipe_id is null then 1 else 0 end as bit) as is_taken_back
    from release_clips
    left join releases on release_clips.release = releases.wave
    left join lineage on release_clips.recipe_id = lineage.recipe_id
    left join generations on release_clips.recipe_id = generations.recipe_id
    left join outcomes on release_clips.recipe_id = outcomes.recipe_id
    left join checkpoint_clips on release_clips.recipe_id = checkpoint_clips.recipe_id
    left join trained on release_clips.release = trained.wave and trained.first_rank = 1

)

select * from final
