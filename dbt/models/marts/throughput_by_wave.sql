with receipts as (

    select * from {{ ref('stg_receipts') }}
    where step = 'generate'

),

costs as (

    select
        recipe_id,
        {{ total('gpu_s') }} as gpu_s,
        {{ mean('ms_per_step') }} as ms_per_step,
        {{ mean('tflops') }} as tflops,
        max(peak_gpu_gb) as peak_gpu_gb,
        {{ mean('busy_share') }} as busy_share
    from receipts
    group by recipe_id

),

lineage as (

    select * from {{ ref('stg_lineage') }}

),

generations as (

    select * from {{ ref('stg_generations') }}

),

outcomes as (

    select * from {{ ref('clip_outcomes') }}

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
        coalesce({{ total('gpu_s') }}, 0) as gpu_s,
        {{ mean('ms_per_step') }} as ms_per_step,
        {{ mean('tflops') }} as tflops,
        max(peak_gpu_gb) as peak_gpu_gb,
        {{ mean('busy_share') }} as busy_share,
        coalesce({{ total("case when outcome = 'accepted' then duration_s end") }}, 0) as accepted_duration_s
    from made
    group by wave, generator, tier, profile

),

final as (

    select
        *,
        {{ ratio('num_frames', 'gpu_s') }} as frames_per_gpu_s,
        {{ ratio('gpu_s', 'accepted_duration_s') }} as gpu_s_per_accepted_s
    from summed

)

select * from final
