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
            cast(recipe_id as varchar) as recipe_id,
            cast(scene_id as varchar) as scene_id,
            cast(sketch_recipe_id as varchar) as sketch_recipe_id,
            cast(draft_recipe_id as varchar) as draft_recipe_id,
            cast(wave as varchar) as wave,
            cast(model as varchar) as model,
            cast(revision as varchar) as revision,
            cast(checkpoint as varchar) as checkpoint,
            cast(tier as varchar) as tier,
            cast(profile as varchar) as profile,
            cast(sampler as varchar) as sampler,
            cast(control as varchar) as control,
            cast(guardrail as varchar) as guardrail,
            cast(num_steps as integer) as num_steps,
            cast(guidance as double) as guidance,
            cast(tiny as boolean) as tiny,
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
