-- Made by `make marts-sql` from dbt/models/marts/cost_per_accepted_second.sql; change that.
create or alter view worldloop_marts.cost_per_accepted_second as
with receipts as (

    select * from worldloop_marts.stg_receipts

),

outcomes as (

    select * from worldloop_marts.clip_outcomes

),

costs as (

    select
        recipe_id,
        sum(cpu_s) as cpu_s,
        sum(gpu_s) as gpu_s
    from receipts
    group by recipe_id

),

made as (

    -- what a clip cost counts whatever became of it: rejects make the accepted ones dearer
    select
        outcomes.generator,
        outcomes.tier,
        outcomes.city,
        outcomes.duration_s,
        outcomes.outcome,
        coalesce(costs.cpu_s, 0) as cpu_s,
        coalesce(costs.gpu_s, 0) as gpu_s
    from outcomes
    left join costs on outcomes.recipe_id = costs.recipe_id
    where outcomes.generator is not null

),

summed as (

    select
        generator,
        tier,
        city,
        count(*) as num_clips,
        sum(cpu_s) as cpu_s,
        sum(gpu_s) as gpu_s,
        coalesce(sum(case when outcome = 'accepted' then duration_s end), 0) as accepted_duration_s
    from made
    group by generator, tier, city

),

final as (

    select
        *,
        cast(cpu_s as float) / nullif(accepted_duration_s, 0) as cpu_s_per_accepted_s,
        cast(gpu_s as float) / nullif(accepted_duration_s, 0) as gpu_s_per_accepted_s
    from summed

)

select * from final
