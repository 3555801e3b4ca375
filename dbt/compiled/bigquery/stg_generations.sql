-- Made by `make marts-sql` from dbt/models/staging/stg_generations.sql; change that.
create or replace view worldloop_marts.stg_generations as
with log_rows as (

    select
        recipe_id,
        scene_id,
        sketch_recipe_id,
        draft_recipe_id,
        wave,
        model,
        revision,
        checkpoint,
        tier,
        profile,
        sampler,
        control,
        guardrail,
        num_steps,
        guidance,
        tiny,
        log_site
    from (
        select
            cast(recipe_id as string) as recipe_id,
            cast(scene_id as string) as scene_id,
            cast(sketch_recipe_id as string) as sketch_recipe_id,
            cast(draft_recipe_id as string) as draft_recipe_id,
            cast(wave as string) as wave,
            cast(model as string) as model,
            cast(revision as string) as revision,
            cast(checkpoint as string) as checkpoint,
            cast(tier as string) as tier,
            cast(profile as string) as profile,
            cast(sampler as string) as sampler,
            cast(control as string) as control,
            cast(guardrail as string) as guardrail,
            cast(num_steps as int64) as num_steps,
            cast(guidance as float64) as guidance,
            cast(tiny as bool) as tiny,
            origin as log_site,
            row_number() over (partition by recipe_id order by origin) as occurrence
        from worldloop.generations
    ) as numbered
    where occurrence = 1

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
        checkpoint,
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
