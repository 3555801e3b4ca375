-- Made by `make marts-sql` from dbt/models/marts/throughput_by_wave.sql; change that.
create or alter view worldloop_marts.throughput_by_wave as
with receipts as (

    select * from worldloop_marts.stg_receipts
    where step = 'generate'

),

costs as (

    select
        recipe_id,
        sum(gpu_s) as gpu_s,
        avg(ms_per_step) as ms_per_step,
        avg(tflops) as tflops,
        max(peak_gpu_gb) as peak_gpu_gb,
        avg(busy_share) as busy_share
    from receipts
    group by recipe_id

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

made as (

    select
        lineage.wave,
        lineage.generator,
        generations.tier,
        generations.profile,
        lineage.num_frames,
        lineage.duration_s,
        outcomes.outcome,
        costs.gpu_s,
        costs.ms_per_step,
        costs.tflops,
        costs.peak_gpu_gb,
        costs.busy_share
    from generations
    inner join lineage on generations.recipe_id = lineage.recipe_id
    left join outcomes on generations.recipe_id = outcomes.recipe_id
    left join costs on generations.recipe_id = costs.recipe_id

),

summed as (

    select
        wave,
        generator,
        tier,
        profile,
        count(*) as num_clips,
        sum(num_frames) as num_frames,
        coalesce(sum(gpu_s), 0) as gpu_s,
        avg(ms_per_step) as ms_per_step,
        avg(tflops) as tflops,
        max(peak_gpu_gb) as peak_gpu_gb,
        avg(busy_share) as busy_share,
        coalesce(sum(case when outcome = 'accepted' then duration_s end), 0) as accepted_duration_s
    from made
    group by wave, generator, tier, profile

),

final as (

    select
        *,
        cast(num_frames as float) / nullif(gpu_s, 0) as frames_per_gpu_s,
        cast(gpu_s as float) / nullif(accepted_duration_s, 0) as gpu_s_per_accepted_s
    from summed

)

select * from final
