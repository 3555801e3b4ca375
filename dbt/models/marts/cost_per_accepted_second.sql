with receipts as (

    select * from {{ ref('stg_receipts') }}

),

outcomes as (

    select * from {{ ref('clip_outcomes') }}

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
        outcomes.city,
        outcomes.duration_s,
        outcomes.outcome = 'accepted' as is_accepted,
        coalesce(costs.cpu_s, 0) as cpu_s,
        coalesce(costs.gpu_s, 0) as gpu_s
    from outcomes
    left join costs using (recipe_id)
    where outcomes.generator is not null

),

summed as (

    select
        generator,
        city,
        count(*) as num_clips,
        sum(cpu_s) as cpu_s,
        sum(gpu_s) as gpu_s,
        coalesce(sum(duration_s) filter (where is_accepted), 0) as accepted_duration_s
    from made
    group by generator, city

),

final as (

    select
        *,
        cpu_s / nullif(accepted_duration_s, 0) as cpu_s_per_accepted_s,
        gpu_s / nullif(accepted_duration_s, 0) as gpu_s_per_accepted_s
    from summed

)

select * from final
