-- Made by `make marts-sql` from dbt/models/marts/guardrail_outcomes.sql; change that.
create or replace view worldloop_marts.guardrail_outcomes as
with generations as (

    select * from worldloop_marts.stg_generations

),

blocked as (

    select * from worldloop_marts.stg_blocked

),

planned as (

    -- a wave plans one model at one tier; a wave of which every clip was stopped does not name it
    select
        wave,
        min(model) as only_model,
        min(tier) as only_tier
    from generations
    group by wave
    having min(model) = max(model) and min(tier) = max(tier)

),

stopped as (

    select
        coalesce(planned.only_model, 'unknown') as model,
        coalesce(planned.only_tier, 'unknown') as tier,
        blocked.guard,
        blocked.category,
        count(*) as num_blocked
    from blocked
    left join planned on blocked.wave = planned.wave
    left join generations on blocked.recipe_id = generations.recipe_id
    where generations.recipe_id is null -- one that was made later was not stopped
    group by
        coalesce(planned.only_model, 'unknown'),
        coalesce(planned.only_tier, 'unknown'),
        blocked.guard,
        blocked.category

),

passed as (

    select
        model,
        tier,
        count(case when guardrail <> 'unguarded' then 1 end) as num_passed,
        count(case when guardrail = 'unguarded' then 1 end) as num_unguarded
    from generations
    group by model, tier

),

models as (

    select distinct
        model,
        tier
    from (
        select model, tier from passed
        union all
        select model, tier from stopped
    ) as named

),

final as (

    select
        models.model,
        models.tier,
        coalesce(stopped.guard, 'none') as guard,
        coalesce(stopped.category, 'none') as category,
        coalesce(stopped.num_blocked, 0) as num_blocked,
        coalesce(passed.num_passed, 0) as num_passed,
        coalesce(passed.num_unguarded, 0) as num_unguarded
    from models
    left join stopped on models.model = stopped.model and models.tier = stopped.tier
    left join passed on models.model = passed.model and models.tier = passed.tier

)

select * from final
